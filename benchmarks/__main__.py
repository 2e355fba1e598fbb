"""Runs the benchmarks that are named, or all of them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from . import ledger, life, overhead, pool

ALL: Mapping[str, Callable[[], object]] = {
    "ledger": ledger.run,
    "pool": pool.run,
    "life": life.run,
    "overhead": overhead.run,
}
PARTS: Mapping[str, Callable[[], object]] = {
    **{f"pool.{part}": partial(pool.run, part) for part in pool.PARTS},
    **{f"life.{part}": partial(life.run, part) for part in life.PARTS},
    **{f"overhead.{part}": partial(overhead.run, part) for part in overhead.PARTS},
}


def main() -> int:
    known = {**ALL, **PARTS}
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(known)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    arguments = parser.parse_args()
    names: list[str] = arguments.names or list(ALL)
    if unknown := [name for name in names if name not in known]:
        print(
            f"benchmarks: there is no {unknown[0]!r}, choose from: {', '.join(known)}",
            file=sys.stderr,
        )
        return 2
    measured = {name: known[name]() for name in names}
    if arguments.json is not None:
        figures = {name: value for name, value in measured.items() if value is not None}
        arguments.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    return 0


sys.exit(main())
