"""On what the benchmarks ran: versions, cores, kernel."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version

from poolguard.errors import LabError
from poolguard.lab.binaries import find
from poolguard.lab.pgbouncer import find_pgbouncer

from ..contenders import knex

__all__ = ["environment"]

PACKAGES = (
    "gunicorn-poolguard",
    "psycopg",
    "psycopg-pool",
    "gunicorn",
    "uvicorn",
    "uvicorn-worker",
    "opentelemetry-sdk",
    "sqlalchemy",
    "django",
    "asyncpg",
)


def environment() -> dict[str, str]:
    """By name, in the order of reading; what is not there has no entry."""
    found = {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "cores": str(os.cpu_count()),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "PostgreSQL": find().version,
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    with contextlib.suppress(LabError):
        found |= _said("PgBouncer", str(find_pgbouncer()))
    return found | _said("Node.js", "node") | knex.versions()


def _said(name: str, program: str) -> dict[str, str]:
    """The first version that a program names."""
    try:
        done = subprocess.run(
            [program, "--version"], check=True, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    match = re.search(r"\d+(\.\d+)+", done.stdout)
    return {name: match[0]} if match else {}
