"""Who competes with poolguard: what users pick instead, at documented defaults and well tuned.

Each has the same endpoint (``/``: one query, ``/health``: none) in :mod:`.apps`, the same maximum
of connections, and under Python the same gunicorn. What each setting is, and where its project says
so, stands in its application.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from poolguard.errors import LabError
from poolguard.lab.pgbouncer import PoolMode, find_pgbouncer

from . import knex

__all__ = ["CONTENDERS", "LIMIT", "POOLGUARD", "Contender", "Kind", "Setting", "among", "missing"]

Kind = Literal["sync", "async", "node"]
Setting = Literal["defaults", "tuned", "limit"]

POOLGUARD = "poolguard"
LIMIT = "limit"


@dataclass(frozen=True, slots=True)
class Pooler:
    """The PgBouncer that stands before the server, on the application's own host."""

    mode: PoolMode
    full: bool
    """Whether it keeps all of its server connections open, or what traffic opened."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to hold connections."""

    name: str
    module: str
    """Its application in :mod:`.apps`."""
    kind: Kind = "sync"
    setting: Setting = "defaults"
    packages: tuple[str, ...] = ()
    """What it needs beside poolguard's own dependencies, as PyPI has it."""
    pooler: Pooler | None = None

    @property
    def guarded(self) -> bool:
        """It is poolguard."""
        return self.module.startswith("guarded")

    @property
    def slug(self) -> str:
        """The name as a part of a file's name."""
        return self.name.lower().replace(" ", "-")


_SESSION = Pooler("session", full=False)
"""PgBouncer's defaults (pgbouncer.org/config.html: pool_mode, min_pool_size)."""
_TRANSACTION = Pooler("transaction", full=True)

CONTENDERS = (
    Contender(LIMIT, "psycopg_sync", setting="limit"),
    Contender(POOLGUARD, "guarded"),
    Contender("poolguard tuned", "guarded", setting="tuned"),
    Contender("psycopg_pool", "psycopg_sync"),
    Contender("psycopg_pool tuned", "psycopg_sync", setting="tuned"),
    Contender("SQLAlchemy", "sqlalchemy_pool", packages=("sqlalchemy",)),
    Contender("SQLAlchemy tuned", "sqlalchemy_pool", setting="tuned", packages=("sqlalchemy",)),
    Contender("Django", "django_pool", packages=("django",)),
    Contender("Django tuned", "django_pool", setting="tuned", packages=("django",)),
    Contender("connection per request", "per_request"),
    Contender("PgBouncer", "per_request", pooler=_SESSION),
    Contender("PgBouncer tuned", "per_request", setting="tuned", pooler=_TRANSACTION),
    Contender(f"async {LIMIT}", "psycopg_async", "async", "limit"),
    Contender(f"async {POOLGUARD}", "guarded_async", "async"),
    Contender("async poolguard tuned", "guarded_async", "async", "tuned"),
    Contender("async psycopg_pool", "psycopg_async", "async"),
    Contender("async psycopg_pool tuned", "psycopg_async", "async", "tuned"),
    Contender("asyncpg", "asyncpg_pool", "async", packages=("asyncpg",)),
    Contender("asyncpg tuned", "asyncpg_pool", "async", "tuned", packages=("asyncpg",)),
    Contender("knex", "knex", "node"),
    Contender("knex tuned", "knex", "node", "tuned"),
)
"""In the order in which they are shown; a limit is the best that is possible for its kind."""


def among(absent: Callable[[Contender], str | None]) -> tuple[list[Contender], list[str]]:
    """Who is measured, and a note of each of the others: *absent* says why it is not."""
    reasons = {contender: absent(contender) for contender in CONTENDERS}
    notes = [f"{each.name}: not measured: {why}" for each, why in reasons.items() if why]
    return [each for each, why in reasons.items() if not why], notes


@cache
def missing(contender: Contender) -> str | None:
    """Why it cannot run here, and what to do; ``None`` where it can."""
    for package in contender.packages:
        try:
            version(package)
        except PackageNotFoundError:
            return f"{package} is not installed: pip install 'gunicorn-poolguard[bench]'"
    if contender.pooler is not None:
        try:
            find_pgbouncer()
        except LabError as error:
            return str(error)
    if contender.kind == "node":
        if shutil.which("node") is None or shutil.which("npm") is None:
            return "Node.js with npm is not installed: install the system's packages nodejs and npm"
        return knex.install()
    return None
