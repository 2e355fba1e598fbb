"""``poolguard status``: what the workers of this user on this host publish of their guards."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from ..settings import Settings
from ..util import rundir
from ..util.escape import as_json
from ..worker.publish import published
from . import deployment
from .folder import add_folder, insist_on_ours
from .status_table import Rates
from .status_text import frame, is_whole, report
from .text import columns_to_fit, say, wrapped

__all__ = ["add_to"]

NOT_RUNNING = 3
"""The exit status with which systemctl status and pg_ctl status say that nothing is running."""


def add_to(commands: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "status",
        help="the pools of all workers on this host, or all hosts of a fleet, once or live",
        description="Shows the pool of each worker that runs on this host as this user, and how "
        "much of the budget is in use. It asks neither the workers nor the database: each worker "
        "writes its status into the runtime folder every second, and more rarely at rest. With "
        "--fleet it shows the hosts of a fleet instead, and asks the database in which they share "
        "their budget, as any role may. The exit status is 0 where a worker, or a host, is there, "
        "3 where none is, and 1 where the folder cannot be trusted, or the database does not "
        "answer.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=_interval,
        const=1.0,
        help="draw it again every SECONDS (1), with rates per second instead of counts, until q or "
        "Ctrl-C, which end it with exit status 0; with --json, print a line of JSON each time",
    )
    add_folder(parser)
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.add_argument(
        "--fleet", action="store_true", help="show all hosts that share one budget (ledger fleet)"
    )
    deployment.add_places(parser)
    parser.set_defaults(run=_run, parser=parser)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0.1 to a day")
    return seconds


def _run(options: argparse.Namespace) -> int:
    draws = options.watch is not None and not options.json
    if draws and (not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb"):
        options.parser.error(
            "--watch draws on a terminal, and standard output is none that can be drawn on: "
            "drop it, or add --json for a line of JSON each time"
        )
    if options.fleet:
        return _run_of_fleet(options)
    for name in (*deployment.PLACES, "ledger_label"):
        if getattr(options, name) is not None:
            options.parser.error(f"{deployment.option(name)} says where a fleet is: add --fleet")
    folder: Path = options.runtime_dir or Settings.build().runtime_dir or rundir.default_path()
    if draws:
        return _watch(folder, options.watch)
    if options.watch is not None:
        return _stream(folder, options.watch)
    return _once(folder, for_machines=options.json)


def _run_of_fleet(options: argparse.Namespace) -> int:
    from . import fleet

    if options.runtime_dir is not None:
        options.parser.error("--fleet asks a database, and --runtime-dir is a folder: drop one")
    settings = deployment.fleet_of(options)
    return fleet.run(settings, watch=options.watch, for_machines=options.json)


def _read(folder: Path) -> list[dict[str, Any]]:
    """What the workers have published in *folder*."""
    insist_on_ours(folder)
    return [status for status in published(folder) if is_whole(status)]


def _nothing(folder: Path) -> str:
    where = str(folder) if os.path.lexists(folder) else f"{folder}, which does not exist"
    return (
        f"no worker runs as this user (uid {os.geteuid()}): looked in {where}. Run this as the "
        f"workers' user, and with their runtime_dir (POOLGUARD_RUNTIME_DIR or --runtime-dir)"
    )


def _once(folder: Path, *, for_machines: bool) -> int:
    workers = _read(folder)
    if for_machines:
        print(as_json(_machine(folder, workers), indent=1))
    elif workers:
        say(report(workers, time.time(), runtime_dir=folder, width=columns_to_fit()))
    else:
        width = columns_to_fit()
        say([_nothing(folder)] if width is None else wrapped(_nothing(folder), width=width))
    return 0 if workers else NOT_RUNNING


def _machine(folder: Path, workers: list[dict[str, Any]]) -> dict[str, Any]:
    return {"runtime_dir": str(folder), "workers": workers}


def _stream(folder: Path, every: float) -> int:
    try:
        while True:
            print(as_json(_machine(folder, _read(folder))), flush=True)
            time.sleep(every)
    except KeyboardInterrupt:
        return 0


def _watch(folder: Path, every: float) -> int:
    from .screen import Screen

    rates = Rates()
    with Screen() as screen:
        while True:
            workers = _read(folder)
            rates.look(workers)
            screen.draw(
                frame(
                    workers,
                    time.time(),
                    runtime_dir=folder,
                    rates=rates,
                    nothing=_nothing(folder),
                    size=screen.size(),
                )
            )
            ended = screen.wait(every)
            if ended is not None:
                return ended
