"""A process of a host of a fleet: it leases slots, and holds a session for each, as a pool does.

``python -m tests.budget.fleet.member FOLDER DSN BUDGET LABEL``: then it does what the lines that it
reads say, and answers each with one line of JSON.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

from poolguard.budget.fleet.control import Lost
from poolguard.budget.fleet.keeper import FleetSettings
from poolguard.budget.fleet.ledger import FleetLedger
from poolguard.budget.slots import Backend, Slot
from poolguard.budget.terms import Terms
from poolguard.util.rundir import RuntimeDir

__all__ = ["Member", "connecting", "joined", "terms_of"]


def connecting(dsn: str) -> Any:
    """What opens control sessions there."""

    def connect(name: str, more: Mapping[str, Any]) -> psycopg.Connection[Any]:
        try:
            return psycopg.connect(dsn, autocommit=True, **{**more, "application_name": name})
        except psycopg.Error as error:
            raise Lost(str(error)) from None

    return connect


def terms_of(budget: int, workers: int = 2, floor: int = 2) -> Terms:
    """The terms of a worker of a fleet with that budget."""
    return Terms(None, max(1, budget - 2), workers, floor, budget)


def joined(folder: Path, dsn: str, budget: int, label: str = "tests", **terms: int) -> FleetLedger:
    """The ledger of one more process of the host whose folder that is."""
    fleet = FleetSettings(connecting(dsn), label, folder.name)
    workers = terms.get("workers", 2)
    ledger = FleetLedger(RuntimeDir(folder), "shop", workers=workers, fleet=fleet)
    ledger.agree(terms_of(budget, **terms))
    return ledger


class Member:
    """A process that takes part, with a session for each of its slots.

    It uses as many sessions as it wants, where it can have them. The others are idle, and it keeps
    them until they are owed to others, as a pool does. Of those in use it gives up what it owes.
    """

    def __init__(self, ledger: FleetLedger, dsn: str) -> None:
        self.ledger = ledger
        self.sessions: dict[Slot, psycopg.Connection[Any]] = {}
        self.wanted = 0
        self._closes = False
        self._dsn = dsn
        self._over = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def want(self, n: int) -> None:
        """Use so many sessions from now on."""
        self.wanted = n

    def close_idle(self) -> None:
        """Close what is not in use."""
        self._closes = True

    def hold(self, n: int, within: float = 10.0) -> int:
        """Want so many sessions, and wait for them; returns how many there are in the end."""
        self.want(n)
        with self._changed:
            self._changed.wait_for(lambda: len(self.sessions) == n, within)
            return len(self.sessions)

    def close(self) -> None:
        """End all of it."""
        self._over.set()
        self._thread.join(10)
        for slot in [*self.sessions]:
            self._end(slot)
        self.ledger.close()

    def _run(self) -> None:
        siblings = self.ledger.siblings
        while not self._over.is_set():
            if select.select([siblings.fileno()], [], [], 0.02)[0]:
                siblings.catch_up()
            self.ledger.maintain(lambda *_: None)
            self._give_up()
            missing = self.wanted - len(self.sessions)
            for slot in self.ledger.lease(missing) if missing > 0 else []:
                self._begin(slot)
            siblings.report_starving(max(0, self.wanted - len(self.sessions)))
            with self._changed:
                self._changed.notify_all()

    def _give_up(self) -> None:
        """Close what is not wanted, and what is owed."""
        owed = self.ledger.siblings.owed()
        idle = max(0, len(self.sessions) - self.wanted)
        if not self._closes:
            idle = min(idle, owed.idle)
        self._closes = False
        for slot in [*self.sessions][: idle + max(0, owed.returned - idle)]:
            self._end(slot)

    def _begin(self, slot: Slot) -> None:
        conn = psycopg.connect(self._dsn, autocommit=True, application_name="pooled")
        self.ledger.record_backend(slot, Backend(conn.info.backend_pid, 0.0))
        seat = self.ledger.seat(slot)
        assert seat is not None
        row = conn.execute("SELECT pg_try_advisory_lock(%s, %s)", seat).fetchone()
        assert row is not None
        self.sessions[slot] = conn
        if not row[0]:
            self.ledger.unseated(slot)
            self._end(slot)

    def _end(self, slot: Slot) -> None:
        conn = self.sessions.pop(slot)
        with suppress(OSError), socket.socket(fileno=dup_of(conn)) as copy:
            conn.close()
            copy.shutdown(socket.SHUT_WR)
            copy.setblocking(True)
            while copy.recv(4096):
                pass
        self.ledger.release(slot)


def dup_of(conn: psycopg.Connection[Any]) -> int:
    """A copy of the descriptor of a connection's socket."""
    return socket.dup(conn.pgconn.socket)


def main(folder: str, dsn: str, budget: str, label: str) -> None:
    """Do what is asked."""
    member = Member(joined(Path(folder), dsn, int(budget), label), dsn)
    for line in sys.stdin:
        word, *rest = line.split()
        answer: object = None
        if word == "hold":
            answer = member.hold(int(rest[0]), float(rest[1]) if rest[1:] else 10.0)
        elif word == "has":
            answer = len(member.sessions)
        elif word == "keeps":
            answer = member.ledger._keeper.reigns
        elif word == "close":
            member.close()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
