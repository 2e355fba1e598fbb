"""SQLAlchemy's QueuePool over psycopg 3.

Defaults (docs.sqlalchemy.org/en/20/core/pooling.html): pool_size 5 and overflow connections, which
are closed when they are returned; here there may be as many of them as the budget has room for.
"""

from __future__ import annotations

from typing import Any

from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import create_engine, text

from .endpoint import wsgi
from .terms import TERMS

settings: dict[str, Any] = {"pool_size": 5, "max_overflow": TERMS.size - 5}
if TERMS.tuned:
    # The same page: pool_pre_ping ("Disconnect Handling - Pessimistic") and pool_recycle; what is
    # no overflow stays open. The pool offers no way to open connections before they are asked for.
    settings = {
        "pool_size": TERMS.size,
        "max_overflow": 0,
        "pool_pre_ping": True,
        "pool_recycle": 1800,
        "pool_timeout": 5,
    }

engine = create_engine(
    "postgresql+psycopg://", connect_args=conninfo_to_dict(TERMS.dsn), **settings
)
statement = text("SELECT pg_sleep(:seconds)")


def query() -> None:
    with engine.connect() as conn:
        conn.execute(statement, {"seconds": TERMS.query})


app = wsgi(query)
