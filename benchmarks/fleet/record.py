"""The record of a run: what went wrong, and what happened before it, for whoever looks for why."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
from psycopg.rows import dict_row

from poolguard.budget.fleet.keys import Keys
from poolguard.budget.fleet.survey import Session as Holder
from poolguard.budget.fleet.survey import query
from poolguard.lab.sessions import Session, SessionSampler

from .clients import Reply

__all__ = ["Record", "episodes", "locks"]

APART = 0.25
"""Seconds between two samples above the budget that belong to two episodes."""
MOST_TOLD = 40
EVERY = 0.1
"""Seconds from one look at the board to the next."""
_SESSIONS = "SELECT pid, application_name FROM pg_stat_activity WHERE usename = %s"


class Record:
    """Lines with the seconds since it began, in *file*; nowhere where that is None."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._began = monotonic()
        self._lock = threading.Lock()

    def write(self, text: str, at: float | None = None) -> None:
        """Tell that something happened, now or *at* a moment by the monotonic clock."""
        if self._file is not None:
            passed = (monotonic() if at is None else at) - self._began
            with self._lock, self._file.open("a") as file:
                file.write(f"{passed:9.3f} {text}\n")

    def tell(self, name: str, sampler: SessionSampler, failed: Iterable[Reply]) -> None:
        """Each episode above the budget, and each request that failed."""
        self.write(f"== {name}: {sampler!r}, {len(sampler.over)} over")
        for over in episodes(sampler.over):
            at, sessions = max(over, key=lambda sample: len(sample[1]))
            lasted = over[-1][0] - over[0][0]
            self.write(f"{len(over)} samples over in {lasted:.3f} s: {len(sessions)} sessions", at)
            for each in sorted(sessions, key=lambda session: session.began):
                self.write(
                    f"    {each.pid} {each.began:.3f} {each.application} {each.state} "
                    f"{' '.join(each.query.split())}",
                    at,
                )
        for reply in failed:
            self.write(f"failed, begun {reply.began - self._began:.3f}: {reply}", reply.ended)

    @contextmanager
    def diary(self, conninfo: str, role: str, budget: int) -> Iterator[None]:
        """Write down each line of the fleet's board that has changed, and all locks of the *role*'s
        sessions while these exceed the *budget*."""
        over = threading.Event()
        if self._file is None:
            yield
            return
        thread = threading.Thread(
            target=self._keep, args=(conninfo, role, budget, over), daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _keep(self, conninfo: str, role: str, budget: int, over: threading.Event) -> None:
        last: dict[int, str] = {}
        conn: psycopg.Connection[Any] | None = None
        while not over.wait(EVERY):
            try:
                conn = conn or psycopg.connect(conninfo, autocommit=True, connect_timeout=2)
                sessions = dict(conn.execute(_SESSIONS, [role]).fetchall())
                if len(sessions) > budget:
                    self._write_locks(conn, role, sessions)
            except psycopg.Error:
                conn = None
                continue
            found = {pid: name for pid, name in sessions.items() if name.startswith("poolguard ")}
            for pid in {*last, *found}:
                if last.get(pid) != found.get(pid):
                    self.write(f"board {pid} {found.get(pid, 'gone')}")
            last = found
        if conn is not None:
            conn.close()

    def _write_locks(
        self, conn: psycopg.Connection[Any], role: str, sessions: dict[int, str]
    ) -> None:
        holders = locks(conn, role)
        self.write(f"locks: {len(sessions)} sessions")
        for pid, name in sessions.items():
            slots = holders[pid].occupied if pid in holders else frozenset()
            by = [_short(each.name) for each in holders.values() if each.leased & slots]
            self.write(
                f"    {pid} {_short(name)} in slot {[*slots]}, leased by {' and '.join(by) or None}"
            )


def locks(conn: psycopg.Connection[Any], role: str) -> dict[int, Holder]:
    """The sessions that have locks of the fleet that the *role* is of by default, by pid."""
    keys = Keys.of(f"{role}@{conn.info.dbname}")
    with conn.cursor(row_factory=dict_row) as cursor:
        return {row["pid"]: Holder.of(row) for row in cursor.execute(query(keys))}


def _short(name: str) -> str:
    return f"{name.split(':')[1].partition(' ')[0]}'s keeper" if ":" in name else name


def episodes(
    samples: Iterable[tuple[float, list[Session]]],
) -> list[list[tuple[float, list[Session]]]]:
    """Samples that follow each other closely, together."""
    found: list[list[tuple[float, list[Session]]]] = []
    for sample in samples:
        if found and sample[0] - found[-1][-1][0] < APART:
            found[-1].append(sample)
        else:
            found.append([sample])
    return found
