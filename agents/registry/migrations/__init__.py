"""Alembic migrations of the registry's database, run when it is opened."""
