"""A part of ``faults``: hosts that fall silent, in four ways at once, while another one goes on.

What ends then ends by keepalives, after a minute at most, so that they are watched together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
ROUNDS = 2
LASTS = 80.0
"""Seconds: longer than a minute of keepalives."""
ASK_EVERY = 0.2
SOON = 0.5
"""Seconds after which it is told apart which sessions have had nothing to answer."""
QUERY = 0.02, 0.1
SAYS_SO = "it says so"
CONTROL_ENDS = "its control session ends"
IDLE_END = "its idle sessions end"
WELL = "well again, once that is over"
_IDLE = """
SELECT pid FROM pg_stat_activity
 WHERE usename = %s AND state = 'idle' AND extract(epoch FROM clock_timestamp() - state_change) > %s
"""


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
    pooled: frozenset[int] = frozenset()
    """The sessions of its pools, at first."""
    idle: frozenset[int] = frozenset()
    """Those of them that have had nothing to answer since."""
    said: str | None = None
    """What it has said before, and may say still."""
    left: int = 0
    """How many of its sessions there were still, at last."""
    seen: dict[str, float] = made(default_factory=dict)

    @property
    def phases(self) -> Sequence[str]:
        """What is to be seen of it."""
        asked = () if self.stopped else (SAYS_SO,)
        return (*asked, CONTROL_ENDS, IDLE_END, WELL)

    def begin(self, sight: Sight) -> None:
        """It falls silent."""
        [self.control] = sight.keeping(self.host.name)
        self.pooled = sight.pooled(self.host.name)
        self.seen.clear()
        self.said = None if self.stopped else self._says()
        if self.cut:
            self.host.link.cut()
        if self.stopped:
            self.host.signal_all(SIGSTOP)

    def end(self) -> None:
        """It does not any more."""
        self.host.link.mend()
        self.host.signal_all(SIGCONT)

    def look(self, sight: Sight) -> None:
        """At what its server has."""
        if self.control not in sight.names:
            self.seen.setdefault(CONTROL_ENDS, sight.at)
        if not self.idle & sight.names.keys():
            self.seen.setdefault(IDLE_END, sight.at)
        self.left = len(self.pooled & sight.names.keys())

    def ask(self) -> None:
        """Whether it knows."""
        if self.stopped:
            return
        if self._says() not in (None, self.said):
            self.seen.setdefault(SAYS_SO, monotonic())

    def _says(self) -> str | None:
        says: str | None = self.host.get("status")["budget"]["fleet"]["unreachable"]
        return says


def silence(stage: Stage) -> Iterator[Row]:
    """Each way, and what was seen."""
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
            at_rest, busy, paused, stopped = (scene.join(1, n)[0] for n in (0, 2, 0, 0))
            scene.join(1, 2)
            sleep(5.0)  # they have given back by then what they do not need
            silent = [
                Silent("cut off, nothing needed", at_rest),
                Silent("cut off, under load", busy),
                Silent("machine paused", paused, stopped=True),
                Silent("processes stopped", stopped, cut=False, stopped=True),
            ]
            found = [_watched(scene, silent) for _ in range(ROUNDS)]
            for host in list(there.hosts):
                clients.withdraw(host)
        failed = [reply for reply in clients.replies if reply.status != 200]
        stage.record.tell("silence", sampler, failed)
    counted: dict[str, Sequence[float]] = {
        "peak": [sampler.peak],
        "over": [len(sampler.over)],
        "failed": [len(failed)],
    }
    for each in silent:
        for phase in each.phases:
            measured = [of_round[each.how][phase] for of_round in found]
            yield Row(
                f"{each.how}: {phase}",
                {"seconds": measured, **counted},
                {"over": 0.0} if counted else {},
            )
            counted = {}
        left = [of_round[each.how]["left"] for of_round in found]
        yield Row(f"{each.how}: its sessions after {LASTS:g} s", {"left": left})


def _watched(scene: Scene, silent: Sequence[Silent]) -> Mapping[str, Mapping[str, float]]:
    """Have them be silent for a while. The seconds of each phase, and how many sessions are left,
    of each way."""
    sight = scene.settle()
    began = monotonic()
    for each in silent:
        each.begin(sight)
    sleep(SOON)
    with scene.there.server.connect() as admin:
        since = monotonic() - began + 0.05  # what was answered just before was heard
        found = admin.execute(_IDLE, [ROLE, since]).fetchall()
    for each in silent:
        each.idle = each.pooled & {pid for (pid,) in found}
    _look(scene, silent, began + LASTS)
    mended = monotonic()
    for each in silent:
        each.end()
    well: dict[str, float] = {}

    def all_are(sight: Sight) -> bool:
        for each in silent:
            if sight.is_well(each.host.name, scene.floors):
                well.setdefault(each.how, sight.at)
        return len(well) == len(silent)

    scene.watch.until(all_are)
    return {
        each.how: {
            **{phase: each.seen.get(phase, inf) - began for phase in each.phases},
            WELL: well.get(each.how, inf) - mended,
            "left": each.left,
        }
        for each in silent
    }


def _look(scene: Scene, silent: Sequence[Silent], until: float) -> None:
    asked = 0.0
    while (now := monotonic()) < until:
        say(f"silence: {until - now:.0f} s left")
        if (sight := scene.watch.look()) is not None:
            for each in silent:
                each.look(sight)
        if now > asked + ASK_EVERY:
            asked = now
            for each in silent:
                each.ask()
        sleep(0.02)
