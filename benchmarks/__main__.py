"""Runs the benchmarks that are named, or all of them, and prints a table of each part."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from poolguard.errors import LabError
from poolguard.lab.binaries import find

from . import (
    adapters,
    burst,
    fleet,
    history,
    ledger,
    life,
    memory,
    overhead,
    pool,
    ramp,
    readme,
    reload,
    scale,
    storm,
    story,
)
from .table import Table

MODULES = (
    *(ledger, pool, adapters, life, overhead, story, burst, ramp, reload, scale, memory),
    *(storm, fleet, history),
)
ALL = {module.__name__.rpartition(".")[2]: module for module in MODULES}
DIGESTS: Mapping[str, readme.Digest] = {
    name: module.DIGEST for name, module in ALL.items() if hasattr(module, "DIGEST")
}
"""Those that have a table in benchmarks/README.md."""
CONTEST = ("story", "burst", "ramp", "reload")
KNOWN: Mapping[str, Callable[..., Mapping[str, Table]]] = {
    **{name: module.run for name, module in ALL.items()},
    **{f"{name}.{part}": partial(ALL[name].run, part) for name in ALL for part in ALL[name].PARTS},
}
PACKAGES = (
    *("gunicorn-poolguard", "psycopg", "psycopg-pool", "gunicorn", "uvicorn", "uvicorn-worker"),
    *("opentelemetry-sdk", "sqlalchemy", "django", "asyncpg"),
)


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status: 1 where a storm or the fleet's chaos found a fault, 2
    where it refuses."""
    options = _parser().parse_args(argv)
    names = [*dict.fromkeys(options.names or ALL)]
    chosen = [each for name in names for each in (CONTEST if name == "contest" else (name,))]
    played = {"minutes": options.minutes, "seed": options.seed}
    more: Mapping[str, Mapping[str, Any]] = {
        "storm": played,
        "fleet": {**played, "record": options.record},
    }
    measured = {}
    try:
        _check(chosen, write=options.write, quick=options.quick)
        for name in chosen:
            module, _, _ = name.partition(".")
            measured[name] = KNOWN[name](quick=options.quick, **more.get(module, {}))
            if options.write:
                readme.write(readme.README, name, DIGESTS[name].lines(measured[name]))
    except LabError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    if options.json is not None:
        plain = {
            "command": shlex.join(["python", "-m", "benchmarks", *argv]),
            "environment": _environment(),
            "measured": {
                name: {part: table.as_json() for part, table in tables.items()}
                for name, tables in measured.items()
            },
        }
        options.json.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n")
    stormy = [
        table
        for tables in measured.values()
        for part, table in tables.items()
        if part in ("storm", "chaos")
    ]
    return int(any(row.missed for table in stormy for row in table.rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    known = f"contest (that is {', '.join(CONTEST)}), or one of: {', '.join(KNOWN)}"
    parser.add_argument("names", nargs="*", metavar="NAME", help=known)
    quick = "show that they work, with figures worth nothing"
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    write = f"write the tables of {', '.join(DIGESTS)} to benchmarks/README.md"
    parser.add_argument("--write", action="store_true", help=write)
    minutes = "how long each storm, and the fleet's chaos, lasts (default: %(default)g)"
    parser.add_argument("--minutes", type=float, default=1.0, metavar="N", help=minutes)
    seed = "of the storms and of the fleet: what happens in them (default: %(default)s)"
    parser.add_argument("--seed", type=int, default=storm.SEED, metavar="N", help=seed)
    record = "tell this file what goes wrong in the fleet, and what happened before"
    parser.add_argument("--record", type=Path, metavar="FILE", help=record)
    return parser


def _check(chosen: Sequence[str], *, write: bool, quick: bool) -> None:
    """Raise LabError for what would else be refused after minutes of measuring."""
    for name in chosen:
        if name not in KNOWN:
            raise LabError(f"there is no {name!r}, choose from: contest, {', '.join(KNOWN)}")
        if write and name not in DIGESTS:
            raise LabError(f"{name} has no table in README.md to write: {', '.join(DIGESTS)} have")
    if write and quick:
        raise LabError("--write with --quick would publish figures that are worth nothing")


def _environment() -> dict[str, str]:
    """On what the benchmarks ran; what is not installed has no entry."""
    found = {"system": platform.platform(), "Python": platform.python_version()}
    found["PostgreSQL"] = find().version
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
