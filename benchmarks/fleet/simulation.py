"""``fleet.simulation``: fleets of up to a thousand hosts in simulated time, no server needed.

The hosts decide by the very ``Policy`` of the product. By itself, with a picture:
``python -m benchmarks.fleet.simulation [--quick] [--svg FILE]``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from ..table import Row, Table, say
from .simulated.host import Host
from .simulated.picture import Curve, Layer, picture
from .simulated.world import Asked, World

HOSTS = (10, 50, 200, 1000)
SEEDS = {10: 5, 50: 3, 200: 2, 1000: 1}
"""How often a fleet of so many hosts is played."""
WORKERS = FLOORS = 8
SHARE = 12
"""Slots of the budget for each host's pools: beside its control session's, and the door."""
WANTED = 20
REST = 15.0
"""Control statements of a host in a minute at rest, at most."""
GOALS = {
    (50, "one joins"): {"fair": 0.13},
    (1000, "all join"): {"floors": 5.9, "fair": 6.9, "claims/s": 740},
    (1000, "one joins"): {"fair": 0.15},
}
"""What the prototype's simulation had, in which a host needed no login."""


class Stage(Protocol):
    """What is asked of the other parts' stage."""

    @property
    def quick(self) -> bool: ...


class Fleet:
    """Hosts that have one server."""

    def __init__(self, budget: int, seed: int) -> None:
        self.world = World(budget, seed)
        self.hosts: list[Host] = []

    def join(self, demand: int) -> Host:
        """One more host begins to join."""
        return Host(self.world, self.hosts, demand, workers=WORKERS, floors=FLOORS)

    def later(self, n: int, within: float, demand: int) -> None:
        """So many join, *within* so many seconds."""
        for _ in range(n):
            self.world.after(self.world.random.uniform(0, within), self.join, demand)

    def played(self, seconds: float) -> Asked:
        """Let time pass; what the server was asked meanwhile."""
        self.world.asked = asked = Asked()
        self.world.run(seconds)
        for host in self.hosts:
            if host.lives:
                host.check()
        return asked


class Played(NamedTuple):
    """What was seen of one phase."""

    name: str
    seconds: float
    asked: Asked
    hosts: Sequence[Host] = ()
    """Those that were in need, and of which it is told how long they waited."""

    @property
    def figures(self) -> dict[str, float]:
        asked, seconds = self.asked, self.seconds
        waited = {
            "floors": [h.floors_at for h in self.hosts],
            "fair": [h.fair_at for h in self.hosts],
        }
        figures = {}
        for name, moments in waited.items():
            times = [
                float("inf") if at is None else at - host.asked_at
                for at, host in zip(moments, self.hosts, strict=True)
            ]
            if times:
                figures[name] = sorted(times)[int(len(times) * 0.99)]
        return figures | {
            "claims/s": asked.messages["Claim"] / seconds,
            "messages/s": asked.messages.total() / seconds,
            "SELECTs/s": asked.selects / seconds,
            "server, %": 100 * asked.seconds / seconds,
            "connects/s": asked.connects / seconds,
            "of a host/min": max(asked.by_host.values(), default=0) * 60 / seconds,
        }


def _day(n: int, seed: int) -> Iterator[Played]:
    """The phases of fleets of *n* hosts."""
    fleet = Fleet((SHARE + 1) * n + 1, seed)
    fleet.later(n, 10, WANTED)
    asked = fleet.played(20)
    yield Played("all join", 20, asked, [*fleet.hosts])
    yield Played("saturated", 60, fleet.played(60))
    one = fleet.join(WANTED)
    yield Played("one joins", 10, fleet.played(10), [one])
    fleet = Fleet((SHARE + 1) * n + 1, seed)
    fleet.later(n, 2, FLOORS)
    fleet.played(12)
    greedy, others = fleet.hosts[: max(1, n // 10)], fleet.hosts[max(1, n // 10) :]
    for host in greedy:
        host.wants(4 * SHARE)
    fleet.played(10)
    for host in others:
        fleet.world.after(fleet.world.random.uniform(0, 0.5), host.wants, SHARE)
    yield Played("the rest wakes", 20, fleet.played(20.0), others)
    for host in fleet.hosts:
        host.wants(FLOORS // 2)
    fleet.played(30)
    yield Played("at rest", 60, fleet.played(60))


def _autoscaled(seed: int) -> Iterator[Played]:
    """3 hosts become 50, one each half a second, and then they are replaced one by one."""
    _, fleet = _scaling(seed)
    yield Played("3 become 50", 30, fleet.world.asked, fleet.hosts[3:])
    old = [*fleet.hosts]
    for nth, host in enumerate(old):
        fleet.world.after(nth * 0.5, host.leave)
        fleet.world.after(nth * 0.5, fleet.join, SHARE)
    asked = fleet.played(40)
    yield Played("deploy", 40, asked, fleet.hosts[len(old) :])
    killed = [host for host in fleet.hosts if host.lives][::5]
    for host in killed:
        host.vanish()
    fleet.later(len(killed), 1.0, SHARE)
    asked = fleet.played(20)
    yield Played("10 are killed", 20, asked, fleet.hosts[-len(killed) :])


def _scaling(seed: int) -> tuple[list[tuple[float, int, int, int]], Fleet]:
    """3 hosts under a load that takes all become 50. Returns with the fleet, for each moment, how
    many slots the first hosts have, the others, and the control sessions with the door."""
    load, n = 900, 50
    fleet = Fleet((SHARE + 1) * n + 1, seed)
    world, told = fleet.world, list[tuple[float, int, int, int]]()

    def one_more() -> None:
        fleet.join(0)
        for host in fleet.hosts:
            host.demand = load // len(fleet.hosts)

    def look() -> None:
        first, others = (
            sum(host.has for host in hosts if host.lives)
            for hosts in (fleet.hosts[:3], fleet.hosts[3:])
        )
        told.append((world.now - 5, first, others, len(world.members) + 1))
        world.after(0.1, look)

    for _ in range(3):
        one_more()
    fleet.played(5)
    look()
    for nth in range(n - 3):
        world.after(1 + nth * 0.5, one_more)
    fleet.played(30)
    return told, fleet


def _rows(n: int, rounds: int, day: Callable[[int], Iterator[Played]]) -> list[Row]:
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(1, rounds + 1):
        for played in day(seed):
            say(f"{n} hosts, seed {seed}: {played.name}")
            found.setdefault(played.name, []).append(played.figures)
    rows = []
    for name, each in found.items():
        figures = {figure: [one[figure] for one in each] for figure in each[0]}
        goals = GOALS.get((n, name), {})
        if name == "at rest":
            goals = {"of a host/min": REST}
        rows.append(Row(f"{n} hosts: {name}", figures, goals))
    return rows


def table(*, quick: bool = False) -> Table:
    """All phases of all fleets."""
    rows = []
    for n in (5,) if quick else HOSTS:
        rows += _rows(n, 1 if quick else SEEDS[n], lambda seed, n=n: _day(n, seed))  # type: ignore[misc]
    rows += _rows(50, 1 if quick else SEEDS[50], _autoscaled)
    notes = [
        f"hosts of {WORKERS} workers, a floor of {FLOORS} and a fair share of {SHARE} each; "
        "floors and fair: seconds until 99 of 100 had them, a login of 20 ms included",
        f"all join: within 10 s, and each wants {WANTED}; the rest wakes: a tenth held "
        f"{4 * SHARE} each, then all others want {SHARE}; at rest: all use less than their floors",
        "3 become 50: one host each 0.5 s, under a load that takes all; deploy: each 0.5 s one "
        "leaves and another joins; 10 are killed: and join again within 1 s",
        "messages of control sessions, what is in them, and what the server takes for that of one "
        "processor, by what such statements took on PostgreSQL 18.4; of a host/min: the most "
        "messages of one host, as of a minute",
    ]
    return Table("simulation: fleets in simulated time, by the product's own policy", rows, notes)


def simulation(stage: Stage) -> Table:
    """The part of the benchmark ``fleet``."""
    return table(quick=stage.quick)


def drawn(found: Table) -> str:
    """The picture: a fleet that grows, and how long hosts wait by the size of their fleet."""
    told, fleet = _scaling(1)
    layers = [
        Layer("the first 3 hosts", [each[1] for each in told]),
        Layer("the 47 that join", [each[2] for each in told]),
        Layer("control sessions, and the door", [each[3] for each in told]),
    ]
    waits: dict[str, list[tuple[float, float]]] = {}
    for row in found.rows:
        n, _, phase = row.who.partition(" hosts: ")
        for figure in ("floors", "fair"):
            if phase in ("all join", "one joins") and figure in row.figures:
                worst = max(row.figures[figure])
                waits.setdefault(f"{phase}: {figure}", []).append((int(n), worst))
    curves = [Curve(name, points) for name, points in waits.items()]
    return picture([each[0] for each in told], layers, fleet.world.budget, curves)


def main() -> None:
    """Print the table, and write the picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet.simulation")
    parser.add_argument("--quick", action="store_true", help="one small fleet")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the picture here")
    options = parser.parse_args()
    found = table(quick=options.quick)
    say("")
    print(found)
    if options.svg is not None:
        options.svg.write_text(drawn(found), encoding="utf-8")


if __name__ == "__main__":
    main()
