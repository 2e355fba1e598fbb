"""``peaks``: how many connections the hosts of a fleet hold at once, and through a deploy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import sleep
from typing import Literal

from ..table import Row, Table, say
from .clients import Clients, queries
from .hosts import ROLE, Field, field
from .stage import Stage

__all__ = ["peaks"]

SECONDS, QUICK = 15.0, 2.0
"""Of load on hosts that stay."""
SETTLE, BETWEEN = 2.0, 1.0
"""Seconds of load before a deploy and after it, and between two of its steps."""
GOALS = {"over": 0.0, "failed": 0.0}


@dataclass(frozen=True)
class Scene:
    """Some hosts under load."""

    name: str
    hosts: int
    budget: int
    clients: int = 8
    """Of each host."""
    deploy: bool = False
    """Each host is replaced, one after the other: the new one serves before the old one ends."""
    ledger: Literal["host", "fleet"] = "fleet"


SCENES = (
    Scene("two hosts", 2, 20, ledger="host"),
    Scene("two hosts", 2, 20),
    Scene("three hosts", 3, 20),
    Scene("rolling deploy of three", 3, 20, deploy=True, ledger="host"),
    Scene("rolling deploy of three", 3, 20, deploy=True),
    Scene("rolling deploy of eight", 8, 40, clients=4, deploy=True),
)


def peaks(stage: Stage) -> Table:
    """Play all scenes. What one host alone may hold is the budget, where it goes by ledger=host."""
    rows = [_played(stage, scene) for scene in (SCENES[1:2] if stage.quick else SCENES)]
    notes = ["peak: all sessions of the service's role, control sessions among them"]
    return Table("peaks: connections of all hosts together, under load", rows, notes)


def _played(stage: Stage, scene: Scene) -> Row:
    say(f"{scene.name}, ledger={scene.ledger}")
    with (
        field() as there,
        there.sampler(scene.budget) as sampler,
        stage.record.diary(there.server.dsn, ROLE, scene.budget),
        Clients(queries(0.03, 0.25), stage.seed) as clients,
    ):
        start: Callable[..., object] = _deployed if scene.deploy else _loaded
        stage.record.write(f"-- {scene}")
        start(there, scene, clients, QUICK if stage.quick else SECONDS)
        for host in list(there.hosts):
            clients.withdraw(host)
    failed = [reply for reply in clients.replies if reply.status != 200]
    name = f"{scene.name}, ledger={scene.ledger}"
    stage.record.tell(name, sampler, failed)
    figures = {
        "budget": [scene.budget],
        "peak": [sampler.peak],
        "samples": [len(sampler.series)],
        "over": [len(sampler.over)],
        "requests": [len(clients.replies)],
        "failed": [len(failed)],
    }
    return Row(name, figures, GOALS if scene.ledger == "fleet" else {})


def _begun(there: Field, scene: Scene, clients: Clients) -> None:
    """All hosts at once, and their clients."""
    for host in there.started(scene.hosts, ledger=scene.ledger, budget=scene.budget):
        clients.send(host.name, host.address, scene.clients)


def _loaded(there: Field, scene: Scene, clients: Clients, seconds: float) -> None:
    _begun(there, scene, clients)
    sleep(seconds)


def _deployed(there: Field, scene: Scene, clients: Clients, _: float) -> None:
    _begun(there, scene, clients)
    sleep(SETTLE)
    for old in list(there.hosts.values()):
        [new] = there.started(1, ledger=scene.ledger, budget=scene.budget)
        clients.send(new.name, new.address, scene.clients)
        there.leave(old, clients)
        sleep(BETWEEN)
    sleep(SETTLE)
