"""``chaos``: hosts come, go and are killed, sessions end, links are cut, and the server fails over.

Everything that is done is an event with a time, and every request that fails is held against them.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from threading import Thread
from time import monotonic, sleep
from typing import Any

import psycopg

from poolguard.errors import LabError
from poolguard.lab.postgres import Mode
from poolguard.lab.standby import Standby

from ..table import Row, Table, say
from .clients import GIVE_UP, Clients, Reply, queries
from .hosts import ROLE, Field, Host
from .hosts import field as fleet_field
from .record import locks
from .stage import Stage

__all__ = ["Event", "chaos", "reason"]

BUDGET = 40
LEAST, MOST = 3, 5
"""Hosts."""
PAUSE = (0.5, 2.5)
"""Seconds from one event to the next."""
CALM = 12.0
"""Seconds of load after the last event: all must be well again."""
DISCARDING = 0.5
"""Seconds in which the requests of a host let go of all locks of their sessions."""
STOPPED = 4.0
"""Seconds that a keeper is stopped: longer than it takes to be deposed."""
GRACE = 3.0
"""Seconds in which all is well again after the server or a link was away."""
KEEPALIVES = 60.0
"""Seconds after which a host notices that a session has ended, where it was told in vain."""
_ENDS_SESSIONS = ("server away", "ended sessions")
RESTS_WITHIN = 75.0
"""Seconds after the last request within which all is in order: a session whose locks were let go of
occupies its slot again when it is checked, after ``check_interval``, and those of a host that has
vanished end by keepalives."""
GRACEFUL_TIMEOUT = 20.0
"""Seconds after which gunicorn ends workers that have requests still (benchmarks/apps)."""
GOALS = {"over": 0.0, "unexplained": 0.0, "wrong at rest": 0.0}

_CONTROL = "starts_with(application_name, 'poolguard ')"


@dataclass
class Event:
    """What was done, and until when it lasts."""

    what: str
    host: str = ""
    """Whom it hit; empty: all."""
    began: float = field(default_factory=monotonic)
    ended: float | None = None
    """None while it lasts."""
    pids: frozenset[int] = frozenset()
    """The workers that were killed."""

    @property
    def end(self) -> float:
        """When it ended; now, where it lasts."""
        return monotonic() if self.ended is None else self.ended

    def __str__(self) -> str:
        pids = f" {sorted(self.pids)}" if self.pids else ""
        return f"{self.what} {self.host}{pids}"

    def hits(self, reply: Reply, grace: float) -> bool:
        """Whether it happened to the host of this request while that was under way."""
        until = self.end + grace
        return self.host in ("", reply.host) and self.began <= reply.ended and reply.began <= until

    def overlaps(self, other: Event) -> bool:
        """Whether both lasted at some moment."""
        return self.began <= other.end and other.began <= self.end


_EXCUSES: Mapping[str, Sequence[str]] = {
    "cut off": ("killed worker", "killed keeper", "killed host", "vanished"),
    "never answered": ("cut", "vanished"),
    "502": ("ended sessions", "cut", "server away"),
    "503": ("cut", "server away"),
}
"""Which events explain which failures."""


def reason(reply: Reply, events: Sequence[Event]) -> str | None:
    """What explains that a request has failed; None: nothing does."""
    kind = str(reply.status)
    if not reply.status:
        kind = "never answered" if reply.ended - reply.began >= GIVE_UP else "cut off"
    for event in events:
        if event.what in _EXCUSES.get(kind, ()) and event.hits(reply, _grace(event, events)):
            return event.what
        if kind == "cut off" and event.hits(reply, 0.1) and _hangs(event, events):
            return "cut"
    return None


def _hangs(event: Event, events: Sequence[Event]) -> bool:
    """Whether a host was left with threads that hung at connections which had been cut: gunicorn
    ends its workers then, and what waited for a thread is never begun."""
    return (
        event.what == "leave"
        and event.end - event.began >= GRACEFUL_TIMEOUT
        and any(
            each.what == "cut"
            and each.host == event.host
            and each.end + _grace(each, events) >= event.began
            for each in events
        )
    )


def _grace(event: Event, events: Sequence[Event]) -> float:
    """Seconds after the end of *event* in which what fails is still due to it: of whoever has
    waited for a connection meanwhile, and reconnects."""
    if event.what == "server away":
        return GRACE
    if event.what == "cut":
        if any(each.what in _ENDS_SESSIONS and each.overlaps(event) for each in events):
            return GRACE + KEEPALIVES  # that its sessions have ended was told in vain
        # TCP waits as long again before it tries again.
        return GRACE + event.end - event.began
    return 0.1


def chaos(stage: Stage) -> Table:
    """A fleet in a storm."""
    seconds = 6.0 if stage.quick else 60.0 * stage.minutes
    with fleet_field() as there:
        with Clients(queries(0.02, 0.3), stage.seed) as clients:
            play = _Play(there, clients, stage)
            with (
                there.sampler(BUDGET) as sampler,
                stage.record.diary(there.server.dsn, ROLE, BUDGET),
            ):
                play.run(seconds)
                play.calm(1.0 if stage.quick else CALM)
                for host in list(there.hosts):
                    clients.withdraw(host)
                wrong = play.wrong_at_rest()
                unanswered = play.unanswered()
        failed = [reply for reply in clients.replies if reply.status != 200]
        reasons = {id(reply): reason(reply, play.events) for reply in failed}
        unexplained = [reply for reply in failed if reasons[id(reply)] is None]
        stage.record.tell("chaos", sampler, unexplained)
        for what in wrong:
            stage.record.write(f"wrong at rest: {what}")
        logs = {host.name: host.server.log() for host in (*there.hosts.values(), *play.former)}
        for name, log in logs.items():
            for line in log.splitlines():
                stage.record.write(f"log of {name}: {line}")
    figures = {
        "events": [len(play.events)],
        "peak": [sampler.peak],
        "samples": [len(sampler.series)],
        "over": [len(sampler.over)],
        "requests": [len(clients.replies)],
        "explained": [len(failed) - len(unexplained)],
        "unexplained": [len(unexplained)],
        "wrong at rest": [len(wrong)],
    }
    counted = Counter(event.what for event in play.events)
    why = Counter(why for why in reasons.values() if why)
    notes = [
        ", ".join(f"{what} {n}" for what, n in counted.most_common()),
        "explained by: " + (", ".join(f"{what} {n}" for what, n in why.most_common()) or "nothing"),
        f"samples that failed, since the server was away: {sampler.failed}",
        f"sessions that vanished hosts have left in the midst of an answer: {unanswered}",
        *(f"wrong at rest: {what}" for what in wrong[:5]),
        *(f"unexplained: {reply}"[:300] for reply in unexplained[:5]),
    ]
    kind = "namespaces" if there.network.real else "proxies"
    title = (
        f"chaos: {seconds:g} s, seed {stage.seed}, {LEAST} to {MOST} hosts in {kind}, "
        f"budget {BUDGET}"
    )
    return Table(title, [Row("fleet", figures, GOALS)], notes)


class _Play:
    """What is done to the fleet, in turn, and what is due later."""

    def __init__(self, there: Field, clients: Clients, stage: Stage) -> None:
        self.events: list[Event] = []
        self.former: list[Host] = []
        """Hosts that are no more."""
        self._there = there
        self._clients = clients
        self._record = stage.record
        self._rng = Random(stage.seed)
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._hit: set[str] = set()
        """Hosts that something lasts for: nothing else is done to them meanwhile."""
        self._threads: list[Thread] = []
        self._acts: Mapping[Callable[[], None], int] = {
            self._join: 4,
            self._leave: 3,
            self._hup: 2,
            self._kill_worker: 3,
            self._kill_keeper: 3,
            self._kill_host: 1,
            self._stop_keeper: 2,
            self._stop_host: 1,
            self._end_control: 3,
            self._end_sessions: 2,
            self._cut: 2,
            self._discard: 1,
            self._restart: 1,
            self._fail_over: 1,
            **({self._vanish: 1} if there.network.real else {}),
        }

    def run(self, seconds: float) -> None:
        """Begin with the least hosts, and go on for so long."""
        for host in self._there.started(LEAST, budget=BUDGET):
            self._send(host)
        until = monotonic() + seconds
        waiting: list[Callable[[], None]] = []
        while monotonic() < until:
            say(f"chaos: {until - monotonic():.0f} s left")
            if not waiting:  # each at least once a while, in an order that the seed chooses
                waiting = [act for act, weight in self._acts.items() for _ in range(weight)]
                self._rng.shuffle(waiting)
            waiting.pop()()
            self._pass(self._rng.uniform(*PAUSE))

    def calm(self, seconds: float) -> None:
        """End all that lasts, and go on without events for so long."""
        while self._due:
            self._pass(0.1)
        for thread in self._threads:
            thread.join()
        self._record.write("-- calm")
        sleep(seconds)

    def unanswered(self) -> int:
        """How many sessions of vanished hosts there are: of those in the midst of an answer the
        server's TCP sends that again for about 15 minutes."""
        with self._there.server.connect() as admin:
            query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = ANY(%s)"
            [[n]] = admin.execute(query, [list(self._vanished)]).fetchall()
        return int(n)

    @property
    def _vanished(self) -> set[str]:
        return {event.host for event in self.events if event.what == "vanished"}

    def wrong_at_rest(self) -> list[str]:
        """What is not as it should be of a fleet that nobody asks for anything."""
        wrong: list[str] = []
        until = monotonic() + RESTS_WITHIN
        while monotonic() < until:
            with self._there.server.connect() as admin:
                wrong = [*_wrong_now(admin, len(self._there.hosts), self._vanished)]
            if not wrong:
                break
            sleep(0.2)
        return wrong

    # -- how it goes on ------------------------------------------------------------------------

    def _pass(self, seconds: float) -> None:
        """Let time pass, and do what is due."""
        until = monotonic() + seconds
        while (now := monotonic()) < until:
            for each in [each for each in self._due if each[0] <= now]:
                self._due.remove(each)
                each[1]()
            sleep(max(0.0, min(0.02, until - now)))

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        self._due.append((monotonic() + seconds, act))

    def _aside(self, act: Callable[[], None]) -> None:
        """Do it in a thread: what takes long must not keep the rest from happening."""
        thread = Thread(target=act, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _event(self, event: Event, *, lasts: bool = False) -> Event:
        if not lasts:
            event.ended = event.began
        self.events.append(event)
        self._record.write(f"event {event}")
        return event

    def _over(self, event: Event) -> None:
        event.ended = monotonic()
        self._hit.discard(event.host)
        self._record.write(f"over {event}")

    def _some(self) -> Host | None:
        """A host that nothing happens to at the moment."""
        free = [host for name, host in self._there.hosts.items() if name not in self._hit]
        return self._rng.choice(free) if free else None

    @contextmanager
    def _spare(self) -> Iterator[Host | None]:
        """The same, where there are more than the least."""
        living = len([name for name in self._there.hosts if name not in self._hit])
        yield self._some() if living > LEAST else None

    def _send(self, host: Host) -> None:
        self._clients.send(host.name, host.address, 5)

    # -- what is done --------------------------------------------------------------------------

    def _join(self) -> None:
        if len(self._there.hosts) >= MOST:
            return
        host = self._there.start(budget=BUDGET)
        event = self._event(Event("join", host.name), lasts=True)
        self._hit.add(host.name)

        def ready() -> None:
            with suppress(LabError):
                host.wait_ready()
                self._send(host)
            self._over(event)

        self._aside(ready)

    def _leave(self) -> None:
        with self._spare() as host:
            if host is None:
                return
            event = self._event(Event("leave", host.name), lasts=True)
            self._hit.add(host.name)

            def leave() -> None:
                self._there.leave(host, self._clients)
                self.former.append(host)
                self._over(event)

            self._aside(leave)

    def _hup(self) -> None:
        if (host := self._some()) is not None:
            self._event(Event("HUP", host.name))
            host.signal(signal.SIGHUP)

    def _kill_worker(self) -> None:
        if (host := self._some()) is not None:
            others = sorted(host.workers() - {host.keeper()})
            if others:
                victim = self._rng.choice(others)
                self._event(Event("killed worker", host.name, pids=frozenset({victim})))
                host.signal(signal.SIGKILL, [victim])

    def _kill_keeper(self) -> None:
        if (host := self._some()) is not None and (keeper := host.keeper()) is not None:
            self._event(Event("killed keeper", host.name, pids=frozenset({keeper})))
            host.signal(signal.SIGKILL, [keeper])

    def _kill_host(self, *, vanish: bool = False) -> None:
        with self._spare() as host:
            if host is None:
                return
            event = Event("vanished" if vanish else "killed host", host.name)
            self._event(event, lasts=True)
            if vanish:
                host.link.cut()
            self._clients.stop(host.name)
            host.signal_all(signal.SIGKILL)
            self._there.hosts.pop(host.name)
            host.server.stop()
            self._clients.withdraw(host.name)
            self._over(event)
            self.former.append(host)
            if not vanish:
                host.gone()

    def _vanish(self) -> None:
        """Nothing of the host's end is heard: its sessions live until keepalives end them."""
        self._kill_host(vanish=True)

    def _stop_keeper(self) -> None:
        if (host := self._some()) is not None and (keeper := host.keeper()) is not None:
            self._stop(Event("stopped keeper", host.name, pids=frozenset({keeper})), host, [keeper])

    def _stop_host(self) -> None:
        if (host := self._some()) is not None:
            pids = [*host.workers()]
            self._stop(Event("stopped host", host.name), host, pids)

    def _stop(self, event: Event, host: Host, pids: Sequence[int]) -> None:
        self._event(event, lasts=True)
        self._hit.add(host.name)
        host.signal(signal.SIGSTOP, pids)

        def wake() -> None:
            host.signal(signal.SIGCONT, pids)
            self._over(event)

        self._later(STOPPED, wake)

    def _end_control(self) -> None:
        self._terminate("ended control session", _CONTROL, 1)

    def _end_sessions(self) -> None:
        self._terminate("ended sessions", f"NOT {_CONTROL}", 4)

    def _terminate(self, what: str, which: str, n: int) -> None:
        with suppress(psycopg.Error), self._there.server.connect(connect_timeout=2) as admin:
            event = Event(what)
            ended = admin.execute(
                "SELECT pid, application_name, pg_terminate_backend(pid) FROM (SELECT * FROM "
                f"pg_stat_activity WHERE usename = %s AND {which} ORDER BY random() LIMIT %s) s",
                [ROLE, n],
            ).fetchall()
            self._event(event)
            self._record.write(f"    {ended}")

    def _cut(self) -> None:
        if (host := self._some()) is None:
            return
        event = self._event(Event("cut", host.name), lasts=True)
        self._hit.add(host.name)
        host.link.cut()

        def mend() -> None:
            host.link.mend()
            self._over(event)

        self._later(self._rng.choice((0.5, 2.0, 6.0, 12.0, 30.0)), mend)

    def _discard(self) -> None:
        if (host := self._some()) is None:
            return
        event = self._event(Event("DISCARD ALL", host.name), lasts=True)
        self._clients.discarding.add(host.name)

        def stop() -> None:
            self._clients.discarding.discard(host.name)
            self._over(event)

        self._later(DISCARDING, stop)

    def _restart(self) -> None:
        event = self._event(Event("server away"), lasts=True)
        modes: Sequence[Mode] = ("fast", "immediate")
        mode = self._rng.choice(modes)
        self._record.write(f"    restart, {mode}")
        self._there.server.restart(mode)
        self._over(event)

    def _fail_over(self) -> None:
        """A standby takes the server's place: for a moment it is still a standby."""
        there = self._there
        standby = Standby(there.server, janitor=there.janitor)
        standby.start()
        event = self._event(Event("server away"), lasts=True)
        self._record.write("    failover")
        standby.take_over()
        sleep(0.5)
        standby.promote()
        there.replaced(standby)
        self._over(event)


def _wrong_now(
    admin: psycopg.Connection[Any], hosts: int, vanished: Collection[str]
) -> Iterator[str]:
    sessions = dict(
        admin.execute(
            "SELECT pid, application_name FROM pg_stat_activity WHERE usename = %s", [ROLE]
        ).fetchall()
    )
    controls = {pid for pid, name in sessions.items() if name.startswith("poolguard ")}
    if len(controls) != hosts:
        yield f"{len(controls)} control sessions of {hosts} hosts"
    holders = locks(admin, ROLE)
    seats = {slot: pid for pid, each in holders.items() for slot in each.occupied}
    leases = [slot for pid in controls & holders.keys() for slot in holders[pid].leased]
    for pid in sessions.keys() - seats.values():
        yield f"session {pid} ({sessions[pid]}) occupies no slot"
    for slot in seats.keys() - leases:
        if (name := sessions.get(seats[slot])) not in vanished:
            yield f"slot {slot} is occupied by {name}, and leased by none"
    for slot, n in Counter(leases).items():
        if n > 1 and slot in seats:
            yield f"slot {slot} is leased {n} times"
