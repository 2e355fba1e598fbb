"""Runs the benchmarks that are named, or all of them."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from . import (
    burst,
    ledger,
    life,
    memory,
    output,
    overhead,
    pool,
    ramp,
    reload,
    scale,
    skew,
    storm,
    story,
)

ALL: Mapping[str, Callable[..., object]] = {
    "ledger": ledger.run,
    "pool": pool.run,
    "life": life.run,
    "overhead": overhead.run,
    "story": story.run,
    "burst": burst.run,
    "ramp": ramp.run,
    "reload": reload.run,
    "skew": skew.run,
    "scale": scale.run,
    "memory": memory.run,
    "storm": storm.run,
}
PARTS: Mapping[str, Callable[..., object]] = {
    **{f"pool.{part}": partial(pool.run, part) for part in pool.PARTS},
    **{f"life.{part}": partial(life.run, part) for part in life.PARTS},
    **{f"overhead.{part}": partial(overhead.run, part) for part in overhead.PARTS},
    **{f"story.{part}": partial(story.run, part) for part in story.PARTS},
    **{f"burst.{part}": partial(burst.run, part) for part in burst.PARTS},
    **{f"ramp.{part}": partial(ramp.run, part) for part in ramp.PARTS},
    **{f"reload.{part}": partial(reload.run, part) for part in reload.PARTS},
    **{f"scale.{part}": partial(scale.run, part) for part in scale.PARTS},
    **{f"memory.{part}": partial(memory.run, part) for part in memory.PARTS},
    **{f"storm.{part}": partial(storm.run, part) for part in storm.PARTS},
}


def main() -> int:
    known = {**ALL, **PARTS}
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(known)}")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("benchmark-results"),
        help="where results.json, results.md and pictures go (default: %(default)s)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="show that they work, with figures worth nothing"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument(
        "--minutes",
        type=float,
        default=1.0,
        metavar="N",
        help="how long each storm lasts (default: %(default)g)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=storm.SEED,
        metavar="N",
        help="of the storms: which pools, and what each client does (default: %(default)s)",
    )
    arguments = parser.parse_args()
    names: list[str] = arguments.names or list(ALL)
    if unknown := [name for name in names if name not in known]:
        print(
            f"benchmarks: there is no {unknown[0]!r}, choose from: {', '.join(known)}",
            file=sys.stderr,
        )
        return 2
    weather = {"minutes": arguments.minutes, "seed": arguments.seed}
    measured = {
        name: known[name](
            quick=arguments.quick, **(weather if name.partition(".")[0] == "storm" else {})
        )
        for name in names
    }
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    for path in output.write(arguments.out, [command], measured):
        print(f"written: {path}")
    if arguments.json is not None:
        figures = {name: value for name, value in measured.items() if value is not None}
        arguments.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    faulty = [value for value in measured.values() if isinstance(value, dict) and "faults" in value]
    return 1 if any(value["faults"] for value in faulty) else 0


sys.exit(main())
