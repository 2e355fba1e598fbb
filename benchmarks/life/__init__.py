"""A worker's life, with poolguard and without: how long it boots, what a reload costs.

Real gunicorn of each worker class, real PostgreSQL, connects through a proxy that makes them slow.
"""

from __future__ import annotations

import compileall
from collections.abc import Callable, Mapping
from pathlib import Path

import poolguard
from poolguard.lab.janitor import Janitor
from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.proxy import SlowProxy

from ..server import trust
from ..table import Progress, Table
from . import boot, reload
from .frame import CONNECT_DELAY

__all__ = ["PARTS", "run"]

PARTS: Mapping[str, Callable[..., Table]] = {"boot": boot.run, "reload": reload.run}


def run(*parts: str, quick: bool = False) -> dict[str, object]:
    """Measure *parts*, or all, and print a table of each; returns them as plain data."""
    for package in (Path(poolguard.__file__).parent, Path(__file__).parents[1]):
        compileall.compile_dir(package, quiet=2)  # as pip does, whatever the environment says
    progress = Progress()
    tables: dict[str, object] = {}
    missed: list[str] = []
    with (
        Janitor() as janitor,
        PrivatePostgres(janitor=janitor) as server,
        SlowProxy(("127.0.0.1", server.port), connect_delay=CONNECT_DELAY) as proxy,
    ):
        trust(server)
        dsn = server.conninfo(host=proxy.host, port=proxy.port)
        for part in parts or PARTS:
            progress.part = part
            table = PARTS[part](dsn, janitor, progress, quick=quick)
            progress.clear()
            print(f"\n{table}", flush=True)
            tables[part] = table.as_json()
            missed += [f"{part} ({row.who})" for row in table.rows if row.missed]
    print(f"\nmissed: {', '.join(missed)}" if missed else "\nall goals met", flush=True)
    return {"parts": tables}
