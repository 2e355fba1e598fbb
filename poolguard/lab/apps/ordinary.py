"""The demo's application over an ordinary psycopg_pool at its defaults, as many would write it.

Two values differ from the defaults: the maximum is the whole budget, as it is poolguard's, and
``max_idle`` is shorter, since the story runs in fast motion.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool

from .endpoint import endpoint

_opened_at: dict[int, float] = {}  # by backend
_asked_at: dict[int, float] = {}


def _note(conn: psycopg.Connection[Any]) -> None:
    _opened_at[conn.info.backend_pid] = monotonic()


pool = ConnectionPool(
    os.environ["DATABASE_URL"],
    max_size=int(os.environ["DEMO_BUDGET"]),
    max_idle=float(os.environ["DEMO_MAX_IDLE"]),
    configure=_note,
    open=True,
)


@contextmanager
def _connection() -> Iterator[psycopg.Connection[Any]]:
    asked_at = monotonic()
    with pool.connection() as conn:
        _asked_at[conn.info.backend_pid] = asked_at
        yield conn


def _created(conn: psycopg.Connection[Any]) -> bool:
    pid = conn.info.backend_pid
    return _opened_at[pid] >= _asked_at[pid]


app = endpoint(_connection, _created)
