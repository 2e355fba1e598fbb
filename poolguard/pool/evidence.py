"""Commands whose answers are late: what this side sees of one, and what the server says of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..budget.slots import Backend

__all__ = ["ASK_STATES", "IDLE", "Asked", "Command", "Mark", "Reply", "Said", "reply_of"]

IDLE = frozenset(("idle", "idle in transaction", "idle in transaction (aborted)"))
"""The states in which a session waits for a command. (PostgreSQL manual, ``pg_stat_activity``)"""

ASK_STATES = """
SELECT extract(epoch FROM pg_postmaster_start_time())::float8 AS server, pid,
       extract(epoch FROM backend_start)::float8 AS started, state,
       extract(epoch FROM state_change)::float8 AS changed,
       extract(epoch FROM clock_timestamp() - state_change)::float8 AS still
  FROM (SELECT) AS one LEFT JOIN (
       unnest(%(pids)s::int[]) AS asked
       CROSS JOIN LATERAL pg_stat_get_activity(asked) AS session) ON true
"""
"""Asks what these sessions do. At least one row comes, which tells the server from others: the same
address may lead to several.

Not the view of that name, which joins what is not needed."""


class Mark(NamedTuple):
    """What tells one command under way from another. While two are equal, the application has
    waited for the same answer, no byte of it has come, and none of the command was acknowledged."""

    since: float
    """When the wait for its answer began, by the monotonic clock."""
    received: int
    """Bytes received over the connection so far."""
    acked: int
    """Bytes sent over it so far that were acknowledged."""


class Command(NamedTuple):
    """A command whose answer an application waits for."""

    mark: Mark
    unacked: int = 0
    """Packets that the other side has not acknowledged, ..."""
    retransmits: int = 0
    """... how often the first of them was sent again since then, ..."""
    unheard: float = 0.0
    """... and seconds since the last acknowledgement."""


class Asked(NamedTuple):
    """One command about which the server is being asked."""

    number: int
    """Which suspicion it is about."""
    backend: Backend
    mark: Mark
    at: float
    """When the question began, by the monotonic clock."""


class Said(NamedTuple):
    """What the server says of a session. What it does not show to this role is None."""

    pid: int
    started: float | None
    state: str | None
    changed: float | None
    """When its state changed last, by the server's clock."""
    still: float | None
    """Seconds that have passed since then."""


class Reply(NamedTuple):
    """The server's answer about some sessions."""

    server: float
    """When the server was started: what tells it from others."""
    sessions: Mapping[int, Said]

    def of(self, backend: Backend) -> Said | None:
        """What it says of this session; None: it has none with that pid, or a later one."""
        said = self.sessions.get(backend.pid)
        if said is not None and said.started and backend.started not in (0.0, said.started):
            return None
        return said


def reply_of(rows: Iterable[Mapping[str, Any]]) -> Reply:
    """The answer to :data:`ASK_STATES`."""
    found = [*rows]
    said = (Said(*(row[name] for name in Said._fields)) for row in found if row["pid"] is not None)
    return Reply(found[0]["server"], {each.pid: each for each in said})
