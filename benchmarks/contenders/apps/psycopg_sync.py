"""psycopg_pool in threads, opened at import as its documentation has it."""

from __future__ import annotations

from psycopg_pool import ConnectionPool

from .endpoint import wsgi
from .psycopg_settings import settings
from .terms import TERMS

pool = ConnectionPool(TERMS.dsn, open=True, **settings(ConnectionPool.check_connection))
if TERMS.tuned or TERMS.limit:
    pool.wait()


def query() -> None:
    with pool.connection() as conn:
        conn.execute("SELECT pg_sleep(%s)", [TERMS.query])


app = wsgi(query)
