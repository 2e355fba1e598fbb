"""Runs the benchmarks that are named, or all of them."""

from __future__ import annotations

import sys

from . import ledger

ALL = {"ledger": ledger.run}


def main() -> int:
    names = sys.argv[1:] or list(ALL)
    if unknown := [name for name in names if name not in ALL]:
        known = ", ".join(ALL)
        print(f"benchmarks: there is no {unknown[0]!r}, choose from: {known}", file=sys.stderr)
        return 2
    for name in names:
        ALL[name]()
    return 0


sys.exit(main())
