"""What a slot of the host's ledger costs when 1 to 16 processes lease from it at the same time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from .. import ledger
from ..crew import Stage
from ..table import Row, Table

__all__ = ["run"]

SLOTS = (20, 100, 500)
PROCESSES = (1, 4, 16)
ROUNDS = 7
LEASES = 2000
GOAL = 20.0
"""µs of the processor: the goal of ``ledger``, whoever else leases at the same time."""


class Measured(NamedTuple):
    """What a lease and its release have cost one process."""

    wall: float
    processor: float
    in_vain: float
    """Percent of the leases that got no slot, since the others held all."""


Peer = tuple[multiprocessing.process.BaseProcess, "Connection[Any, Any]"]


def run(stage: Stage) -> Table:
    """Measure; each process holds one slot throughout, so that it has to search for the next."""
    rounds, leases = (1, 50) if stage.quick else (ROUNDS, LEASES)
    rows = []
    for slots in SLOTS:
        for processes in PROCESSES:
            stage.say(f"{slots} slots, {processes} processes")
            played = _played(stage.janitor.folder() / "run", slots, processes, rounds, leases)
            figures = {
                "processor, µs": [_mean(each.processor for each in of) for of in played],
                "wall, µs": [_mean(each.wall for each in of) for of in played],
                "in vain, %": [_mean(each.in_vain for each in of) for of in played],
            }
            rows.append(
                Row(f"{slots} slots, {processes} process(es)", figures, {"processor, µs": GOAL})
            )
    notes = [
        "all processes lease and release as fast as they can; where there are more of them than "
        "cores, wall time has the time in it in which the others run",
    ]
    return Table("slots: lease + release, the mean of the processes in each round", rows, notes)


def _mean(values: Any) -> float:
    listed = [*values]
    return float(sum(listed) / len(listed))


def _played(
    path: Path, slots: int, processes: int, rounds: int, leases: int
) -> list[list[Measured]]:
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(processes)
    peers: list[Peer] = []
    for _ in range(processes):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(
            target=_lease, args=((path, slots), (rounds, leases), start, theirs), daemon=True
        )
        process.start()
        theirs.close()  # so that a peer that ends early is an error, and no wait
        peers.append((process, ours))
    results: Sequence[list[Measured]] = [pipe.recv() for _, pipe in peers]
    for peer, _ in peers:
        peer.join()
    return [list(of) for of in zip(*results, strict=True)]


def _lease(
    where: tuple[Path, int], much: tuple[int, int], start: Any, pipe: Connection[Any, Any]
) -> None:
    own = ledger.joined(*where)
    rounds, leases = much
    held = own.lease(1)
    measured = []
    for _ in range(rounds):
        start.wait()
        measured.append(Measured(*ledger.leased(own, leases)))
    start.wait()  # nobody leaves while another still measures
    pipe.send(measured)
    for slot in held:
        own.release(slot)
    own.close()
