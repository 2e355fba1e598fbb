"""What a slot of the host's ledger costs when 1 to 16 processes lease from it at the same time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from .. import ledger
from ..crew import Stage
from ..table import Row, Table, ratios

__all__ = ["run"]

SLOTS = (20, 100, 500)
PROCESSES = (1, 4, 16)
ROUNDS = 7
LEASES = 2000
GOAL = 20.0
"""µs: the goal of ``ledger``, where nobody else leases at the same time."""


class Cost(NamedTuple):
    """What a lease with its release has cost one process, as :func:`benchmarks.ledger.leased`."""

    wall: float
    processor: float
    in_vain: float


Team = Callable[[], Sequence[Cost]]
"""Processes that share a ledger: a call has all of them lease at once, and returns what it cost."""


def run(stage: Stage) -> Table:
    """Measure; each process holds one slot throughout, so that it has to search for the next."""
    rows = [row for slots in SLOTS for row in _rows(stage, slots)]
    notes = [
        "all processes lease and release as fast as they can, and hold one slot each besides",
        "times alone: processor time by that of one process in the same round",
        "where there are more processes than cores, wall time has the time in it in which the "
        "others run; in vain: leases that got no slot, since the others held all",
    ]
    return Table("slots: lease + release, the mean of the processes in each round", rows, notes)


def _rows(stage: Stage, slots: int) -> Iterator[Row]:
    rounds, leases = (1, 50) if stage.quick else (ROUNDS, LEASES)
    played: dict[int, list[Sequence[Cost]]] = {processes: [] for processes in PROCESSES}
    with ExitStack() as stack:
        teams: dict[int, Team] = {}
        for processes in PROCESSES:
            path = stage.janitor.folder() / "run"
            teams[processes] = stack.enter_context(_team(path, slots, processes, leases))
        for nth in range(rounds):
            for processes in PROCESSES[:: -1 if nth % 2 else 1]:
                stage.say(f"round {nth + 1} of {rounds}, {slots} slots, {processes} processes")
                played[processes].append(teams[processes]())
    processor = {n: [mean(each.processor for each in costs) for costs in played[n]] for n in played}
    for processes, of in played.items():
        figures = {
            "processor, µs": processor[processes],
            "wall, µs": [mean(each.wall for each in costs) for costs in of],
            "in vain, %": [mean(each.in_vain for each in costs) for costs in of],
        }
        if processes > 1:
            figures["times alone"] = ratios(processor[processes], processor[1])
        goals = {"processor, µs": GOAL} if processes == 1 else {}
        yield Row(f"{slots} slots, {processes} process(es)", figures, goals)


@contextmanager
def _team(path: Path, slots: int, processes: int, leases: int) -> Iterator[Team]:
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(processes)
    pipes: list[Connection[Any, Any]] = []
    with ExitStack() as stack:
        for _ in range(processes):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_lease, args=(path, slots, start, theirs), daemon=True)
            process.start()
            theirs.close()  # so that a process that ends early is an error, and no wait
            stack.callback(process.join)
            stack.callback(ours.close)
            pipes.append(ours)
        stack.callback(start.abort)  # where one has failed, nobody waits for it for ever

        def play() -> Sequence[Cost]:
            for pipe in pipes:
                pipe.send(leases)
            return [Cost(*pipe.recv()) for pipe in pipes]

        for pipe in pipes:
            pipe.recv()  # it has joined, and holds its slot
        yield play


def _lease(path: Path, slots: int, start: Any, pipe: Connection[Any, Any]) -> None:
    own = ledger.joined(path, slots)
    held = own.lease(1)
    pipe.send(len(held))
    while True:
        try:
            leases = pipe.recv()
        except EOFError:
            break
        start.wait()
        pipe.send(ledger.leased(own, leases))
    for slot in held:
        own.release(slot)
    own.close()
