"""Alembic's way to the database: a connection of its own, outside of gunicorn and of any pool."""

import os

from alembic import context
from library.models import Base  # type: ignore[import-not-found]
from sqlalchemy import NullPool, create_engine, make_url

url = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg")
with create_engine(url, poolclass=NullPool).connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()
