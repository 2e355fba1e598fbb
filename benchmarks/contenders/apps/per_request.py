"""One connection a request: to the server, or to the PgBouncer that stands before it."""

from __future__ import annotations

import psycopg

from .endpoint import wsgi
from .terms import TERMS


def query() -> None:
    with psycopg.connect(TERMS.dsn) as conn:
        conn.execute("SELECT pg_sleep(%s)", [TERMS.query])


app = wsgi(query)
