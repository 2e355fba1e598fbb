"""A part of ``faults``: hosts that fall silent, all at once, while the others go on.

What ends then ends by keepalives, after a minute at most, so that they are watched together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from dataclasses import field as made
from math import inf
from signal import SIGCONT, SIGSTOP
from time import monotonic, sleep

from ..table import Row, say
from .clients import Clients, queries
from .hosts import ROLE, Host, field
from .stage import Stage
from .watch import Scene, Sight

__all__ = ["silence"]

BUDGET, WORKERS, FLOOR = 40, 2, 2
LASTS = 80.0
"""Seconds: longer than a minute of keepalives."""
ASK_EVERY = 0.2
QUERY = 0.02, 0.1


@dataclass
class Silent:
    """One host, and when what was seen. Times by the monotonic clock."""

    how: str
    host: Host
    cut: bool = True
    """Its link is."""
    stopped: bool = False
    """All of its processes are."""
    control: int = 0
    idle: frozenset[int] = frozenset()
    """Its idle sessions, at first."""
    seen: dict[str, float] = made(default_factory=dict)

    def look(self, sight: Sight) -> None:
        if self.control not in sight.names:
            self.seen.setdefault("its control session ends", sight.at)
        if not self.idle & sight.names.keys():
            self.seen.setdefault("its idle sessions end", sight.at)

    def ask(self) -> None:
        """Whether it knows."""
        told = self.host.get("status")["budget"]["fleet"]["unreachable"]
        if told is not None:
            self.seen.setdefault("it says so", monotonic())


def silence(stage: Stage) -> Iterator[Row]:
    """Four that fall silent in four ways, and one that goes on."""
    settings = {"budget": BUDGET, "threads": 8, "POOLGUARD_FLOOR": str(FLOOR)}
    with (
        field() as there,
        there.sampler(BUDGET) as sampler,
        Clients(queries(*QUERY), stage.seed) as clients,
        stage.record.diary(there.server.dsn, ROLE, BUDGET),
    ):
        if not there.network.real:  # a proxy acknowledges what never arrives
            return
        scene = Scene(there, clients, sampler, WORKERS * FLOOR, settings)
        with closing(scene.watch):
            idle, busy, paused, stopped = (scene.join(1, 0)[0] for _ in range(4))
            scene.join(1, 2)
            clients.send(busy.name, busy.address, 2)
            sleep(5.0)  # they have given back by then what they do not need
            silent = [
                Silent("cut off, nothing needed", idle),
                Silent("cut off, under load", busy),
                Silent("machine paused", paused, stopped=True),
                Silent("processes stopped", stopped, cut=False, stopped=True),
            ]
            began, mended = _watched(scene, silent)
            again = {each.how: _well(scene, each.host) for each in silent}
            clients.withdraw(busy.name)
            scene.settle()
        failed = [reply for reply in clients.replies if reply.status != 200]
        stage.record.tell("silence", sampler, failed)
    counted: dict[str, Sequence[float]] = {
        "peak": [sampler.peak],
        "over": [len(sampler.over)],
        "failed": [len(failed)],
    }
    for each in silent:
        for what in ("it says so", "its control session ends", "its idle sessions end"):
            if what != "it says so" or not each.stopped:
                figures = {"seconds": [each.seen.get(what, inf) - began], **counted}
                yield Row(f"{each.how}: {what}", figures, {"over": 0.0} if counted else {})
                counted = {}
        yield Row(f"{each.how}: well again", {"seconds": [again[each.how] - mended]})


def _watched(scene: Scene, silent: Sequence[Silent]) -> tuple[float, float]:
    """Have them be silent for a while; when that began, and ended."""
    sight = scene.settle()
    for each in silent:
        [each.control] = sight.keeping(each.host.name)
        each.idle = sight.pooled(each.host.name) - sight.active
    began = monotonic()
    for each in silent:
        if each.cut:
            each.host.link.cut()
        if each.stopped:
            each.host.signal_all(SIGSTOP)
    _look(scene, silent, began)
    mended = monotonic()
    for each in silent:
        each.host.link.mend()
        if each.stopped:
            each.host.signal_all(SIGCONT)
    return began, mended


def _look(scene: Scene, silent: Sequence[Silent], began: float) -> None:
    asked = began
    while (now := monotonic()) < began + LASTS:
        say(f"silence: {began + LASTS - now:.0f} s left")
        if (seen := scene.watch.look()) is not None:
            for each in silent:
                each.look(seen)
        if now > asked + ASK_EVERY:
            asked = now
            for each in silent:
                if not each.stopped:
                    each.ask()
        sleep(0.02)


def _well(scene: Scene, host: Host) -> float:
    """When all is well with it again."""
    return scene.watch.until(lambda sight: sight.is_well(host.name, scene.floors))
