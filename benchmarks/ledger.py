"""What a slot of the host's ledger costs: lease plus release, from 1 to 500 slots.

Eight other processes hold the rest: none, nine in ten, nine in ten with holes in between, or all,
in which case a lease is a search in vain. Goal: under 20 µs, however many slots there are.
"""

from __future__ import annotations

import multiprocessing
import random
import statistics
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from poolguard.budget.host.ledger import HostLedger
from poolguard.budget.terms import Terms
from poolguard.util.rundir import RuntimeDir

__all__ = ["joined", "leased", "run"]

SLOTS = (1, 20, 100, 500)
OTHERS = 8
ROUNDS = 7
LEASES = 2000
FILLINGS = {"empty": (0.0, False), "90 %": (0.9, False), "holes": (0.9, True), "full": (1.0, False)}


def run(*, quick: bool = False) -> None:
    """Measure and print a table; *quick* shows that it works."""
    rounds = 1 if quick else ROUNDS
    print("ledger: lease + release in µs, median (lowest–highest) of", rounds, "rounds")
    print(f"{'slots':>6}" + "".join(f"{filling:>20}" for filling in FILLINGS))
    for slots in SLOTS:
        cells = [_measured(slots, part, holes, rounds) for part, holes in FILLINGS.values()]
        print(f"{slots:>6}" + "".join(f"{cell:>20}" for cell in cells), flush=True)


def _measured(slots: int, part: float, holes: bool, rounds: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        ledger = joined(path, slots)
        held = ledger.lease(1)  # of the floor: what is leased from here on is searched for
        others = _fill(path, slots, round((slots - 1) * part), holes)
        times = sorted(leased(ledger, LEASES)[0] for _ in range(rounds))
        for process, pipe in others:
            pipe.send(None)
            process.join()
        for slot in held:
            ledger.release(slot)
        ledger.close()
    return f"{statistics.median(times):.1f} ({times[0]:.1f}–{times[-1]:.1f})"


def leased(ledger: HostLedger, leases: int) -> tuple[float, float, float]:
    """Wall time and processor time of a lease and its release, in µs; percent that got no slot."""
    slots = 0
    began, ran = perf_counter(), process_time()
    for _ in range(leases):
        for slot in ledger.lease(1):
            ledger.release(slot)
            slots += 1
    wall, processor = perf_counter() - began, process_time() - ran
    return wall / leases * 1e6, processor / leases * 1e6, (1 - slots / leases) * 100


def joined(path: Path, slots: int) -> HostLedger:
    """One process' part in a ledger of so many slots."""
    ledger = HostLedger(RuntimeDir(path), "bench", workers=1)
    ledger.agree(Terms(None, slots, 1, 1))
    return ledger


Other = tuple[multiprocessing.process.BaseProcess, "Connection[Any, Any]"]


def _fill(path: Path, slots: int, taken: int, holes: bool) -> list[Other]:
    spawn = multiprocessing.get_context("spawn")
    others: list[Other] = []
    for nth in range(OTHERS if taken else 0):
        ours, theirs = spawn.Pipe()
        n = taken * (nth + 1) // OTHERS - taken * nth // OTHERS
        process = spawn.Process(target=_hold, args=(path, slots, n, holes, theirs), daemon=True)
        process.start()
        ours.recv()
        others.append((process, ours))
    return others


def _hold(path: Path, slots: int, n: int, holes: bool, pipe: Connection[Any, Any]) -> None:
    ledger = joined(path, slots)
    leased = ledger.lease(n)
    if holes:
        random.Random(n).shuffle(leased)
        for slot in leased[::4]:
            ledger.release(slot)
    pipe.send(None)
    pipe.recv()
