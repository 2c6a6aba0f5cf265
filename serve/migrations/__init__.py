"""Versions of the job table, applied by Alembic."""
