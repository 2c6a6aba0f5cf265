"""Alembic's entry: run the migrations on the engine that `serve.table.migrate` hands over."""

import alembic.context

with alembic.context.config.attributes["engine"].connect() as connection:
    alembic.context.configure(connection=connection, render_as_batch=True)
    with alembic.context.begin_transaction():
        alembic.context.run_migrations()
    connection.commit()
