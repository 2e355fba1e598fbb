"""``faults``: how long what remains possible lasts, where a part of a fleet fails.

Each is a row of the table "When something fails" in examples/fleet/README.md.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from math import inf
from signal import SIGCONT, SIGKILL, SIGSTOP
from time import monotonic
from typing import NamedTuple

from poolguard.budget.fleet.room import room_for_pools
from poolguard.lab.standby import Standby

from ..table import Row, Table, say
from .clients import Clients, queries
from .crowd import crowd
from .hosts import EVERY, ROLE, Host, field, until
from .silence import silence
from .stage import Stage
from .watch import Above, Scene, Sight

__all__ = ["faults"]

BUDGET, HOSTS = 20, 3
WORKERS, THREADS, FLOOR = 2, 8, 2
LIGHT, HEAVY = 2, 16
"""Clients of a host: fewer than its floors, and as many as it has threads."""
QUERY = 0.02, 0.1
IN_USE = 1.0
"""Seconds for which a session is used that has let go of its lock."""
SMALLER = 14
"""The budget of a host that disagrees."""
AFTER = 5.0
"""Seconds for which it is seen how the others go by it."""
KNOWN = 1.5
"""Seconds within which others have looked at the board since a host has joined."""
GOALS = {"over": 0.0}

Found = Mapping[str, Mapping[str, float]]
"""The figures of each phase of a fault."""


class Fault(NamedTuple):
    """One way to fail."""

    what: str
    play: Callable[[Scene], Found]
    """Makes it, and watches what comes of it."""
    rounds: int
    is_long: bool = False


def faults(stage: Stage) -> Table:
    """All of them, one after the other."""
    rows = [*_short_ones(stage), *crowd(stage)]
    if not stage.quick:
        rows += silence(stage)
    notes = [
        "seconds: by what is seen at the server. peak, over and failed: sessions, samples above "
        f"the budget and requests, of all rounds; the samples are every {EVERY * 1e3:.0f} ms",
        "a session in the midst of an answer, whose host has vanished: Linux sends it again for "
        "about 15 minutes (tcp_retries2), unless tcp_user_timeout is set; not waited for",
    ]
    title = f"faults: {HOSTS} hosts of {WORKERS} workers, budget {BUDGET}, {LIGHT} clients each"
    return Table(title, rows, notes)


# -- those of a fleet that lives on --------------------------------------------------------------


def _short_ones(stage: Stage) -> Iterator[Row]:
    settings = {"budget": BUDGET, "threads": THREADS, "POOLGUARD_FLOOR": str(FLOOR)}
    with (
        field() as there,
        there.sampler(BUDGET) as sampler,
        Clients(queries(*QUERY), stage.seed) as clients,
        stage.record.diary(there.server.dsn, ROLE, BUDGET),
    ):
        scene = Scene(there, clients, sampler, WORKERS * FLOOR, settings)
        with closing(scene.watch):
            scene.join(HOSTS, LIGHT)
            for fault in FAULTS:
                if not (stage.quick and fault.is_long):
                    yield from _rows(stage, scene, fault)
            for host in list(there.hosts):
                clients.withdraw(host)
        failed = [reply for reply in clients.replies if reply.status != 200]
        stage.record.tell("faults", sampler, failed)


def _rows(stage: Stage, scene: Scene, fault: Fault) -> Iterator[Row]:
    rounds = 1 if stage.quick else fault.rounds
    found: list[Found] = []
    scene.settle()
    sampler = scene.sampler
    over, replies, began = len(sampler.over), len(scene.clients.replies), monotonic()
    for nth in range(rounds):
        say(f"{fault.what}, round {nth + 1} of {rounds}")
        stage.record.write(f"-- {fault.what}")
        found.append(fault.play(scene))
        stage.record.write(f"found {found[-1]}")
        scene.settle()
    failed = [reply for reply in scene.clients.replies[replies:] if reply.status != 200]
    for reply in failed:
        stage.record.write(f"failed in {fault.what}: {reply}", reply.ended)
    counted = {
        "peak": [max(n for at, n in sampler.series if at >= began)],
        "over": [len(sampler.over) - over],
        "failed": [len(failed)],
    }
    for phase, figures in found[0].items():
        measured = {name: [each[phase][name] for each in found] for name in figures}
        yield Row(f"{fault.what}: {phase}", {**measured, **counted}, GOALS if counted else {})
        counted = {}


def _took(seconds: float) -> Mapping[str, float]:
    return {"seconds": seconds}


def _first(scene: Scene) -> Host:
    return next(iter(scene.there.hosts.values()))


def _control_session_ended(scene: Scene) -> Found:
    host, sight = _first(scene), scene.settle()
    [control] = sight.keeping(host.name)
    with scene.there.server.connect() as admin:
        began = monotonic()
        admin.execute("SELECT pg_terminate_backend(%s)", [control])
    return {"another has leased all": _took(_succeeded(scene, host, control) - began)}


def _succeeded(scene: Scene, host: Host, control: int, within: float = 60.0) -> float:
    """When a control session of *host* that is not *control* has leased all that it uses."""

    def is_so(sight: Sight) -> bool:
        return bool(sight.keeping(host.name)) and control not in sight.names

    return scene.watch.until(is_so, within)


def _keeper(host: Host) -> int:
    until(host.keeper, f"{host.name} has a keeper")
    return host.keeper() or 0


def _keeper_killed(scene: Scene) -> Found:
    host, sight = _first(scene), scene.settle()
    [control] = sight.keeping(host.name)
    leased = sight.holders[control].leased
    others = sight.controls - {control}
    kept = len(leased)

    def succeeded(sight: Sight) -> bool:
        nonlocal kept
        now = (each.leased for pid, each in sight.holders.items() if pid not in others)
        kept = min(kept, len(leased.intersection(frozenset().union(*now))))
        return bool(sight.keeping(host.name)) and control not in sight.names

    keeper = _keeper(host)
    began = monotonic()
    host.signal(SIGKILL, [keeper])
    figures = _took(scene.watch.until(succeeded) - began)
    until(lambda: len(host.workers()) == WORKERS, f"{host.name} has all of its workers")
    return {"the next has leased all": {**figures, "leases kept, %": 100 * kept / len(leased)}}


def _keeper_stopped(scene: Scene) -> Found:
    host, sight = _first(scene), scene.settle()
    [control] = sight.keeping(host.name)
    keeper = _keeper(host)
    began = monotonic()
    host.signal(SIGSTOP, [keeper])
    scene.clients.send(host.name, host.address, HEAVY)
    took = _succeeded(scene, host, control, within=20.0) - began
    host.signal(SIGCONT, [keeper])
    time.sleep(1.0)  # it is awake beside its successor
    scene.load(host, LIGHT)
    return {"it is replaced": _took(took)}


@contextmanager
def _asked(host: Host, path: str) -> Iterator[None]:
    """One request of its own, whose answer nobody reads."""
    with socket.create_connection(host.address) as sock:
        sock.sendall(f"GET /{path} HTTP/1.0\r\nHost: fleet\r\n\r\n".encode())
        yield


def _without_seat(scene: Scene, path: str) -> float:
    """Seconds for which a session is in no slot that *path* has had let go of its lock."""
    host = _first(scene)
    scene.clients.withdraw(host.name)
    seated = scene.settle().pooled(host.name)
    freed: set[int] = set()

    def is_let_go(sight: Sight) -> bool:
        freed.update(seated & sight.pooled(host.name) - sight.holders.keys())
        return bool(freed)

    with _asked(host, path):
        began = scene.watch.until(is_let_go, 10.0)
        # It may have its lock again, or be closed.
        ended = scene.watch.until(lambda sight: not freed & sight.names.keys() - sight.holders)
    scene.clients.send(host.name, host.address, LIGHT)
    return ended - began


def _discard_all(scene: Scene) -> Found:
    took = _without_seat(scene, f"reset/{IN_USE}")
    return {f"in use for {IN_USE:g} s, without its lock": _took(took)}


def _unlock_all(scene: Scene) -> Found:
    took = _without_seat(scene, f"unlock/{IN_USE}")
    return {f"in use for {IN_USE:g} s, then idle, without its lock": _took(took)}


def _smaller_budget(scene: Scene) -> Found:
    others = list(scene.there.hosts.values())
    known = scene.settle().controls
    host = scene.there.start(**{**scene.settings, "budget": SMALLER})
    began = scene.watch.until(lambda sight: sight.controls - known)
    while any(_budget(each) != SMALLER for each in others):
        if monotonic() > began + 60.0:
            break
    told = monotonic()
    host.wait_ready()
    time.sleep(AFTER)
    above = Above.of([*scene.sampler.series], SMALLER, told)
    scene.there.leave(host)
    return {
        "all others go by it": _took(told - began),
        f"above it, in the {AFTER:g} s after that": {
            "seconds": above.seconds,
            "too many": above.most,
        },
    }


def _budget(host: Host) -> int:
    """The budget that it goes by."""
    return int(host.get("status")["budget"]["fleet"]["budget"])


def _host_killed(scene: Scene) -> Found:
    """One that runs a query, has its floors beside that, and whose slots another one waits for."""
    starving, *_, victim = scene.there.hosts.values()
    scene.clients.withdraw(victim.name)
    scene.load(starving, HEAVY)
    time.sleep(KNOWN)  # whom they have never seen they do not miss
    most = room_for_pools(BUDGET, HOSTS) - (HOSTS - 1) * WORKERS * FLOOR
    scene.watch.until(lambda sight: len(sight.pooled(starving.name)) >= most)
    with _asked(victim, "20"):
        last: list[Sight] = []

        def runs(sight: Sight) -> bool:
            last[:] = [sight]
            return bool(sight.pooled(victim.name) & sight.active)

        scene.watch.until(runs)
        running = last[0].pooled(victim.name) & last[0].active
        idle = last[0].pooled(victim.name) - running
        before = len(last[0].pooled(starving.name))
        began = monotonic()
        victim.signal_all(SIGKILL)
        idle_ended = running_ended = used = inf

        def all_seen(sight: Sight) -> bool:
            nonlocal idle_ended, running_ended, used
            if not idle & sight.names.keys():
                idle_ended = min(idle_ended, sight.at)
            if not running & sight.names.keys():
                running_ended = min(running_ended, sight.at)
            if len(sight.pooled(starving.name)) > max(before, most):
                used = min(used, sight.at)
            return inf not in (idle_ended, running_ended, used)

        scene.watch.until(all_seen)
    scene.there.hosts.pop(victim.name)
    victim.kill()
    scene.join(1, LIGHT)
    scene.load(starving, LIGHT)
    return {
        "its idle sessions end": _took(idle_ended - began),
        "its session with a query ends": _took(running_ended - began),
        "a host that waits has a slot more": _took(used - began),
    }


def _all_well(scene: Scene, began: float) -> Found:
    """From *began*, when the server serves, until each host has joined, and has its floors."""
    names = list(scene.there.hosts)
    joined = scene.watch.until(lambda sight: len(sight.controls) == len(names)) - began
    scene.settle()
    return {"each has joined": _took(joined), "each has its floors": _took(monotonic() - began)}


def _server_restarted(scene: Scene) -> Found:
    scene.there.server.restart("fast")
    return _all_well(scene, monotonic())


def _failed_over(scene: Scene) -> Found:
    there = scene.there
    standby = Standby(there.server, janitor=there.janitor)
    standby.start()
    standby.take_over()
    time.sleep(0.5)  # hosts ask it in vain
    standby.promote()
    began = monotonic()
    there.replaced(standby)
    return _all_well(scene, began)


FAULTS: Sequence[Fault] = (
    Fault("control session ended", _control_session_ended, 10),
    Fault("keeper killed", _keeper_killed, 10),
    Fault("keeper stopped, and needed", _keeper_stopped, 5),
    Fault("DISCARD ALL", _discard_all, 5),
    Fault("pg_advisory_unlock_all()", _unlock_all, 3, is_long=True),
    Fault(f"a host with a budget of {SMALLER} joins", _smaller_budget, 5),
    Fault("host killed", _host_killed, 5),
    Fault("server restarted", _server_restarted, 5),
    Fault("failed over to a standby", _failed_over, 3),
)
