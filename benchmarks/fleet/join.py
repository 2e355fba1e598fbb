"""``join``: how soon a host that joins has its floors, and its fair share, where all is in use."""

from __future__ import annotations

import os
import time
from contextlib import closing
from dataclasses import dataclass
from math import inf
from time import monotonic, sleep
from typing import Any

import psycopg

from poolguard.budget.fleet.room import room_for_pools
from poolguard.errors import LabError
from poolguard.lab.processes import processes

from ..table import Row, Table, say
from .clients import Clients, queries
from .hosts import ROLE, Host, field, until
from .stage import Stage

__all__ = ["join"]

BUDGET, HOSTS = 40, 3
WORKERS, THREADS, FLOOR = 2, 8, 2
ROUNDS = 10
GIVE_UP = 20.0
LOOK = 0.005
QUERY = 0.3, 0.9
"""Seconds: long enough for the processor to be idle most of the time, though all are in use."""
FLOORS_WITHIN, FAIR_WITHIN = 0.5, 1.0
"""Seconds: the goals."""
_SESSIONS = """
    SELECT pid, application_name, state, extract(epoch FROM backend_start)::float8
      FROM pg_stat_activity WHERE usename = %s
"""


@dataclass
class Joined:
    """The moments of one join, by the monotonic clock."""

    forked: float = inf
    """The first worker was."""
    control: float = inf
    """The control session appeared at the server."""
    floors: float = inf
    """As many connections stood as its workers' floors."""
    fair: float = inf
    """So many of its connections were in use as is its fair share."""


def join(stage: Stage) -> Table:
    """One more host, again and again: each time the others have taken all again."""
    rounds = 1 if stage.quick else ROUNDS
    settings: dict[str, Any] = {"budget": BUDGET, "threads": THREADS, "POOLGUARD_FLOOR": str(FLOOR)}
    found: list[Joined] = []
    with (
        field() as there,
        there.sampler(BUDGET, every=0.02) as sampler,
        Clients(queries(*QUERY), stage.seed) as clients,
        closing(there.server.connect()) as admin,
        stage.record.diary(there.server.dsn, ROLE, BUDGET),
    ):
        for host in there.started(HOSTS, **settings):
            clients.send(host.name, host.address, WORKERS * THREADS)
        for nth in range(rounds):
            say(f"round {nth + 1} of {rounds}")
            until(lambda: _is_saturated(admin), "all slots are in use")
            sleep(1.0)
            known = {pid for pid, *_ in _sessions(admin)}
            host = there.start(**settings)
            clients.send(host.name, host.address, WORKERS * THREADS)  # they wait to be accepted
            found.append(_watched(admin, host, known))
            stage.record.write(f"joined: {found[-1]}")
            host.wait_ready()
            there.leave(host, clients)
        for name in list(there.hosts):
            clients.withdraw(name)
    failed = [reply for reply in clients.replies if reply.status != 200]
    stage.record.tell("join", sampler, failed)
    rows = [
        _row("from its control session on", found, "control", judged=True),
        _row("from the fork of its first worker on", found, "forked", judged=False),
    ]
    floors = WORKERS * FLOOR
    notes = [
        f"floors: {floors} connections stand; fair share: {_fair()} of its connections are in use",
        f"peak {sampler.peak} of {BUDGET}, {len(sampler.over)} of {len(sampler.series)} samples "
        f"over; {len(failed)} of {len(clients.replies)} requests failed",
    ]
    title = f"join: the {HOSTS + 1}th host of a fleet of {HOSTS} that uses all of {BUDGET}, in s"
    return Table(title, rows, notes)


def _row(name: str, found: list[Joined], since: str, *, judged: bool) -> Row:
    figures = {
        "floors": [each.floors - getattr(each, since) for each in found],
        "fair share": [each.fair - getattr(each, since) for each in found],
    }
    goals = {"floors": FLOORS_WITHIN, "fair share": FAIR_WITHIN} if judged else {}
    return Row(name, figures, goals)


def _fair() -> int:
    return room_for_pools(BUDGET, HOSTS + 1) // (HOSTS + 1)


def _sessions(admin: psycopg.Connection[Any]) -> list[tuple[int, str, str, float]]:
    return admin.execute(_SESSIONS, [ROLE]).fetchall()


def _is_saturated(admin: psycopg.Connection[Any]) -> bool:
    # The others leave the door free, and a host keeps a slot that it does not need for a while.
    return len(_sessions(admin)) >= room_for_pools(BUDGET, HOSTS)


def _watched(admin: psycopg.Connection[Any], host: Host, known: set[int]) -> Joined:
    """The moments at which *host* has what it is due."""
    joined = Joined()
    end = monotonic() + GIVE_UP
    while joined.fair == inf and monotonic() < end:
        if joined.forked == inf:
            joined.forked = _forked_at(host)
        sessions = [each for each in _sessions(admin) if each[0] not in known]
        now = monotonic()
        own = [state for _, name, state, _ in sessions if name == host.name]
        controls = [at for _, name, _, at in sessions if name.startswith("poolguard ")]
        if controls and joined.control == inf:
            joined.control = now - (time.time() - min(controls))
        if len(own) >= WORKERS * FLOOR:
            joined.floors = min(now, joined.floors)
        if sum(state == "active" for state in own) >= _fair():
            joined.fair = now
        sleep(LOOK)
    if joined.forked == inf:
        raise LabError(f"{host!r} has no worker: {host.server.last_words()}")
    return joined


def _forked_at(host: Host) -> float:
    """When the first worker was forked; infinite before that."""
    table = processes()
    started = [int(table[pid].started) for pid in host.workers() if pid in table]
    if not started:
        return inf
    since_boot = min(started) / os.sysconf("SC_CLK_TCK")
    return monotonic() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)
