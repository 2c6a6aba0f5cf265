"""The job table's columns and its engine.

The schema is created by Alembic (`serve/migrations`); this module only describes it to
SQLAlchemy and opens connections. SQLite runs in WAL mode and every transaction begins
IMMEDIATE, so that two replicas can never claim the same job.
"""

import functools
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import sqlalchemy as sa
import sqlalchemy.engine
import sqlalchemy.event
import sqlalchemy.exc

from infra import storage
from infra.errors import ConfigError, ServiceError

metadata = sa.MetaData()

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("tenant", sa.String(128), nullable=False),
    sa.Column("idempotency_key", sa.String(256)),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("model", sa.String(256), nullable=False),
    sa.Column("model_digest", sa.String(64), nullable=False),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("batch_key", sa.String(256), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("progress", sa.Integer, nullable=False),
    sa.Column("stage", sa.Integer, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("completed_at", sa.Float),
    sa.Column("expires_at", sa.Float),
    sa.Column("worker", sa.String(64)),
    sa.Column("lease_until", sa.Float, nullable=False),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("checkpoint_ref", sa.Text),
    sa.Column("checkpoint_group", sa.String(64), nullable=False),
    sa.Column("result", sa.JSON),
    sa.Column("error", sa.JSON),
    sa.UniqueConstraint("tenant", "idempotency_key", name="jobs_idempotency"),
    sa.Index("jobs_open", "status", "priority", "seq"),
)
"""One row per request. Times are seconds since 1970; `fence` grows with every claim."""

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("host", sa.String(256), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("model_digest", sa.String(64), nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
)
"""One row per living sampling replica; an old `seen_at` means that it is gone."""


def url_for(database: str, folder: str) -> str:
    """Return the job table's URL: `database`, or a SQLite file in `folder`.

    Raises:
        ConfigError: No database is named and the folder is not local.
    """
    if database:
        return database
    if storage.is_s3(folder):
        raise ConfigError(
            f"serve.database: needed when serve.folder lies in S3 ({folder}); "
            "give an SQLAlchemy URL such as sqlite:////var/lib/snapvideo/jobs.db"
        )
    path = storage.local_path(storage.absolute(folder))
    return f"sqlite:///{path / 'jobs.db'}"


def migrate(url: str) -> None:
    """Create the tables, or bring those of an older version up to date; safe to repeat.

    Raises:
        ServiceError: The database cannot be opened.
    """
    parsed = sa.make_url(url)
    if parsed.drivername.startswith("sqlite") and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    config = alembic.config.Config()
    config.set_main_option("script_location", _percent_safe(Path(__file__).parent / "migrations"))
    config.attributes["engine"] = engine(url)
    try:
        alembic.command.upgrade(config, "head")
    except sqlalchemy.exc.SQLAlchemyError as fault:
        raise ServiceError(f"serve.database {url}: cannot be opened ({fault})") from fault


@functools.cache
def engine(url: str) -> sqlalchemy.engine.Engine:
    """Return this process's engine for the URL.

    Raises:
        ConfigError: The URL is malformed or its driver is not installed.
    """
    try:
        made = sa.create_engine(url)
    except (sqlalchemy.exc.ArgumentError, ImportError) as fault:
        raise ConfigError(
            f"serve.database: {url!r} cannot be used ({fault}); "
            "accepted: an SQLAlchemy URL such as sqlite:////path/jobs.db"
        ) from fault
    if made.dialect.name == "sqlite":
        sqlalchemy.event.listen(made, "connect", _tune_sqlite)
        sqlalchemy.event.listen(made, "begin", _begin_immediate)
    return made


def _percent_safe(path: Path) -> str:
    """Return the path as ini files want it."""
    return str(path).replace("%", "%%")


def _tune_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - sqlite3's own class
    connection.isolation_level = None
    connection.execute("PRAGMA busy_timeout = 15000")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin_immediate(connection: sqlalchemy.engine.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
