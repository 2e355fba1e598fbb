"""What poolguard costs a request: beside a bare psycopg_pool, in parts of an OpenTelemetry span.

At each door, in each state of tracing, a fresh process; in it all contenders take turns of a few
milliseconds. What counts is the processor's time, for nothing waits here: all else that passes is
others' work. The figure of a round is the median of its turns, a difference or a ratio is one of
the same round, and the table shows the median of the rounds, the lowest and the highest.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

from poolguard.lab.postgres import PrivatePostgres

from ..table import Progress, Table
from . import asgi, instructions, wsgi
from .frame import Stage

__all__ = ["PARTS", "run"]

PARTS: Mapping[str, Callable[[Stage], Table]] = {
    "wsgi": wsgi.run,
    "asgi": asgi.run,
    "instructions": instructions.run,
}


def run(*parts: str, quick: bool = False) -> dict[str, object]:
    """Measure *parts*, or all, and print a table of each; returns them as plain data.

    *quick* shows that they work, with too few rounds for figures worth anything.
    """
    environment = _environment()
    print("overhead:", environment, flush=True)
    progress = Progress()
    tables: dict[str, object] = {}
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as folder, PrivatePostgres() as server:
        stage = Stage(server.create_role("bench"), Path(folder), quick, progress)
        for part in parts or PARTS:
            progress.part = part
            table = PARTS[part](stage)
            progress.clear()
            print(f"\n{table}", flush=True)
            tables[part] = table.as_json()
            missed += [f"{part} ({row.who})" for row in table.rows if row.missed]
    print(f"\nmissed: {', '.join(missed)}" if missed else "\nall goals met", flush=True)
    return {"environment": environment, "parts": tables}


def _environment() -> str:
    packages = ("psycopg", "psycopg-pool", "opentelemetry-sdk")
    versions = [f"{name.replace('-', '_')} {version(name)}" for name in packages]
    return ", ".join([f"Python {platform.python_version()}", *versions, f"{os.cpu_count()} cores"])
