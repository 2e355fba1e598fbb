"""Who competes with poolguard: what users pick instead, at documented defaults and well tuned.

Each has the same endpoint in :mod:`benchmarks.apps.service`, where its settings and their
sources stand, the same maximum of connections, and under Python the same gunicorn.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from poolguard.errors import LabError
from poolguard.lab.pgbouncer import PoolMode, find_pgbouncer

Kind = Literal["sync", "async", "node"]
Setting = Literal["defaults", "tuned", "limit"]

POOLGUARD = "poolguard"
LIMIT = "limit"
KNEX = Path(__file__).parents[1] / "knex"


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to hold connections."""

    name: str
    app: str
    """Its function in :mod:`benchmarks.apps.service`."""
    kind: Kind = "sync"
    setting: Setting = "defaults"
    package: str | None = None
    """What it needs beside poolguard's own dependencies, as PyPI has it."""
    pooler: PoolMode | None = None
    """The mode of the PgBouncer that stands before the server, on the application's own host. It is
    "session" by default (pgbouncer.org/config.html: pool_mode), and keeps what traffic opened; one
    that is tuned keeps all of its server connections open (min_pool_size)."""

    @property
    def guarded(self) -> bool:
        """It is poolguard."""
        return self.app.startswith("guarded")

    @property
    def judged(self) -> bool:
        """The goals are those of poolguard at its defaults."""
        return self.guarded and self.setting == "defaults"


CONTENDERS = (
    Contender(LIMIT, "psycopg_sync", setting="limit"),
    Contender(POOLGUARD, "guarded"),
    Contender("psycopg_pool", "psycopg_sync"),
    Contender("psycopg_pool tuned", "psycopg_sync", setting="tuned"),
    Contender("SQLAlchemy", "sqlalchemy_pool", package="sqlalchemy"),
    Contender("SQLAlchemy tuned", "sqlalchemy_pool", setting="tuned", package="sqlalchemy"),
    Contender("Django", "django_pool", package="django"),
    Contender("Django tuned", "django_pool", setting="tuned", package="django"),
    Contender("connection per request", "per_request"),
    Contender("PgBouncer", "per_request", pooler="session"),
    Contender("PgBouncer tuned", "per_request", setting="tuned", pooler="transaction"),
    Contender(f"async {LIMIT}", "psycopg_async", "async", "limit"),
    Contender(f"async {POOLGUARD}", "guarded_async", "async"),
    Contender("async poolguard tuned", "guarded_async", "async", "tuned"),
    Contender("async psycopg_pool", "psycopg_async", "async"),
    Contender("async psycopg_pool tuned", "psycopg_async", "async", "tuned"),
    Contender("asyncpg", "asyncpg_pool", "async", package="asyncpg"),
    Contender("asyncpg tuned", "asyncpg_pool", "async", "tuned", package="asyncpg"),
    Contender("knex", "knex", "node"),
    Contender("knex tuned", "knex", "node", "tuned"),
)
"""In the order in which they are shown; a limit is the best that is possible for its kind."""


@cache
def missing(contender: Contender) -> str | None:
    """Why it cannot run here, and what to do; ``None`` where it can."""
    try:
        if contender.package is not None:
            version(contender.package)
        if contender.pooler is not None:
            find_pgbouncer()
    except PackageNotFoundError:
        return f"{contender.package} is not installed: pip install 'gunicorn-poolguard[bench]'"
    except LabError as error:
        return str(error)
    if contender.kind == "node" and not (shutil.which("node") and (KNEX / "node_modules").exists()):
        return "it needs Node.js, and once `npm install --no-package-lock` in benchmarks/knex"
    return None
