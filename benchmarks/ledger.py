"""``ledger``: what a slot of the host's ledger costs: lease plus release in µs, 1 to 500 slots.

Eight other processes hold of the rest none, nine in ten, or all, in which case a lease is a search
in vain. Goal: under 20 µs, however many slots there are.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from poolguard.budget.host.ledger import HostLedger
from poolguard.budget.terms import Terms
from poolguard.util.rundir import RuntimeDir

from .table import Row, Table, say, show

SLOTS = (1, 20, 100, 500)
OTHERS = 8
ROUNDS = 7
LEASES = 2000
FILLINGS = {"empty": 0.0, "90 %": 0.9, "full": 1.0}
PARTS = ()


def _measure(rounds: int) -> Table:
    rows = []
    for slots in SLOTS:
        say(f"{slots} slots")
        figures = {each: _leased(slots, part, rounds) for each, part in FILLINGS.items()}
        rows.append(Row(f"{slots} slots", figures))
    return Table(f"ledger: lease + release in µs, {rounds} rounds", rows)


def run(*, quick: bool = False) -> dict[str, Table]:
    """Measure, and print the table."""
    return show("ledger", {"ledger": _measure}, (), 1 if quick else ROUNDS)


def _leased(slots: int, part: float, rounds: int) -> list[float]:
    took = []
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        ledger = _joined(path, slots)
        ledger.lease(1)  # of the floor: what is leased from here on is searched for
        with _filled(path, slots, round((slots - 1) * part)):
            for _ in range(rounds):
                began = perf_counter()
                for _ in range(LEASES):
                    for slot in ledger.lease(1):
                        ledger.release(slot)
                took.append((perf_counter() - began) / LEASES * 1e6)
        ledger.close()
    return took


def _joined(path: Path, slots: int) -> HostLedger:
    """One process' part in a ledger of so many slots."""
    ledger = HostLedger(RuntimeDir(path), "bench", workers=1)
    ledger.agree(Terms(None, slots, 1, 1))
    return ledger


@contextmanager
def _filled(path: Path, slots: int, taken: int) -> Iterator[None]:
    spawn = multiprocessing.get_context("spawn")
    others = []
    for nth in range(OTHERS if taken else 0):
        ours, theirs = spawn.Pipe()
        n = taken * (nth + 1) // OTHERS - taken * nth // OTHERS
        process = spawn.Process(target=_hold, args=(path, slots, n, theirs), daemon=True)
        process.start()
        ours.recv()
        others.append((process, ours))
    yield
    for process, pipe in others:
        pipe.send(None)
        process.join()


def _hold(path: Path, slots: int, n: int, pipe: Connection[Any, Any]) -> None:
    ledger = _joined(path, slots)
    ledger.lease(n)
    pipe.send(None)
    pipe.recv()
