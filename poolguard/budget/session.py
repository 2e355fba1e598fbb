"""The SQL that a new session is greeted with, and that asks about sessions of dead owners.

A server that runs a query does not notice that its client has died until it writes to it, unless
``client_connection_check_interval`` (PostgreSQL 14) has it look now and then. That a client's host
has vanished it notices by TCP keepalives alone, after more than two hours by default. Any role may
set these for its own session. They are sent as options when a session begins, where the server
takes them, and otherwise in the greeting. So a slot comes back in time.

Through a pooler nothing is set: a setting would stay with a server connection that others use next,
or reset it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .slots import POOLED, Backend, Orphan

__all__ = [
    "ASK_ALIVE",
    "CHECK_INTERVAL",
    "END",
    "GREETING",
    "KEEPALIVES",
    "LONGEST_NAME",
    "OPTIONS",
    "OVERRULES",
    "PLAIN_GREETING",
    "RESEAT",
    "RESET_MARK",
    "RESTORE",
    "SEAT",
    "UNSUPPORTED",
    "Row",
    "backend_of",
    "backends_of",
    "gone_among",
    "pids_of",
    "to_be_ended",
]

CHECK_INTERVAL = 1000
"""Milliseconds between two looks at whether the client of a running query is still there."""
KEEPALIVES_IDLE, KEEPALIVES_INTERVAL, KEEPALIVES_COUNT = 30, 10, 3
"""Seconds of silence before a probe, between two probes, and probes in vain: a minute in all."""

KEEPALIVES = {
    "keepalives_idle": KEEPALIVES_IDLE,
    "keepalives_interval": KEEPALIVES_INTERVAL,
    "keepalives_count": KEEPALIVES_COUNT,
}
"""libpq's parameters for the same in the other direction: a server's host that has vanished."""

_TELLING_KEEPALIVES = (
    f"-c tcp_keepalives_idle={KEEPALIVES_IDLE} -c tcp_keepalives_interval={KEEPALIVES_INTERVAL} "
    f"-c tcp_keepalives_count={KEEPALIVES_COUNT}"
)
OPTIONS = (
    f"{_TELLING_KEEPALIVES} -c client_connection_check_interval={CHECK_INTERVAL}",
    _TELLING_KEEPALIVES,
)
"""The options that a session may begin with, those that set most first.

``RESET`` and ``DISCARD ALL`` go back to what was set in this way."""

UNSUPPORTED = "22023"
"""SQLSTATE of a server whose platform cannot look for its client. It is greeted plainly then."""

_BACKEND = """
       pg_backend_pid() AS pid,
       coalesce((SELECT extract(epoch FROM backend_start)
                   FROM pg_stat_get_activity(pg_backend_pid())), 0)::float8 AS started
"""

PLAIN_GREETING = f"SELECT {_BACKEND}"
"""Asks which backend serves this session."""

RESET_MARK = " "
"""Ends the application_name with which a session of a fleet logs in. The greeting takes it away,
and ``DISCARD ALL`` puts it back, of which the server tells. So it shows, without a question, that
the session may have lost its locks."""
LONGEST_NAME = 63
"""Bytes of an application_name that a server keeps (``NAMEDATALEN``)."""
_UNMARKED = "set_config('application_name', rtrim(current_setting('application_name')), false)"

SEAT = f""",
       CASE WHEN pg_backend_pid() = %(login_pid)s THEN
            pg_try_advisory_lock(%(kind)s, %(slot)s) END AS seated, {_UNMARKED}
"""
"""Added to either greeting, takes the lock by which the session occupies its slot. Through a pooler
it would be another session's that keeps it."""

RESEAT = f"""
SET LOCAL client_min_messages = error;
SELECT pg_advisory_unlock(%(kind)s, %(slot)s),
       pg_try_advisory_lock(%(kind)s, %(slot)s) AS seated, {_UNMARKED}
"""
"""Takes that lock again, where the application has let go of it. A session's locks are counted, and
so it is let go of first."""

_OPERATORS = """
  FROM pg_db_role_setting s, unnest(setconfig) AS each
 WHERE s.setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = session_user))
   AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
   AND split_part(each, '=', 1) IN ('client_connection_check_interval',
       'tcp_keepalives_idle', 'tcp_keepalives_interval', 'tcp_keepalives_count')
"""
RESTORE = f"""
SELECT set_config(name, value, false)
  FROM (SELECT DISTINCT ON (1) split_part(each, '=', 1) AS name,
               substr(each, strpos(each, '=') + 1) AS value {_OPERATORS}
         ORDER BY 1, s.setrole = 0, s.setdatabase = 0) AS theirs
 WHERE pg_backend_pid() = %(login_pid)s;
"""
"""Sets what the operator has set for this role or database, which the options have overruled."""

OVERRULES = f""",
       EXISTS (SELECT {_OPERATORS}) AS overrules
"""
"""Added to the greeting, asks whether there is any of that."""

# The pid that was given at login is this session's own, unless a pooler gave it. A setting that the
# server does not know is NULL, and one that its operator has made strict already is left alone.
GREETING = f"""
SELECT {_BACKEND},
       CASE WHEN pg_backend_pid() = %(login_pid)s
             AND current_setting('client_connection_check_interval', true) = '0' THEN
            set_config('client_connection_check_interval', '{CHECK_INTERVAL}', false)
       END AS told_interval,
       CASE WHEN pg_backend_pid() = %(login_pid)s
             AND current_setting('tcp_keepalives_idle')::int
                 NOT BETWEEN 1 AND {KEEPALIVES_IDLE + KEEPALIVES_INTERVAL * KEEPALIVES_COUNT} THEN
            set_config('tcp_keepalives_idle', '{KEEPALIVES_IDLE}', false)
            || set_config('tcp_keepalives_interval', '{KEEPALIVES_INTERVAL}', false)
            || set_config('tcp_keepalives_count', '{KEEPALIVES_COUNT}', false)
       END AS told_keepalives
"""
"""Asks the same, and sets what lets the server notice that the client is gone, where the options
have not."""

ASK_ALIVE = """
SELECT pid, coalesce(extract(epoch FROM backend_start), 0)::float8 AS started,
       usename = current_user AND (
         SELECT bool_and(has_function_privilege(oid, 'execute')) FROM pg_proc
          WHERE proname = 'pg_terminate_backend' AND pronamespace = 'pg_catalog'::regnamespace
       ) AS ours
  FROM pg_stat_activity WHERE pid = ANY(%(pids)s)
"""
"""Asks which of these backends still exist, and which of them this role may end."""

END = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE pid = ANY(%(pids)s) AND usename = current_user
"""
"""Ends these backends: :func:`to_be_ended`.

A query whose client has died ends within a second, by what the session was told when it was
greeted. But where the network has lost a connection, the server counts an idle session for a minute
more, and for hours where it was told nothing."""

Row = tuple[int, float, bool]
"""A backend as the server answers: its pid, its start, and whether this role may end it."""


def backend_of(row: Mapping[str, Any], login_pid: int) -> Backend:
    """The backend of a session, by the greeting's answer and the pid given at login."""
    if row["pid"] != login_pid:
        return POOLED
    return Backend(row["pid"], row["started"])


def backends_of(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The answer to :data:`ASK_ALIVE`."""
    return [(row["pid"], row["started"], row["ours"]) for row in rows]


def pids_of(orphans: Iterable[Orphan]) -> list[int]:
    """The pids to ask about."""
    return [orphan.backend.pid for orphan in orphans]


def gone_among(orphans: Iterable[Orphan], rows: Sequence[Row]) -> list[Orphan]:
    """The orphans whose backends the server does not have any more, by its answer.

    Where a pid was given to another session since then, the backend is gone. The start of another
    role's session is not shown to every role, and that session may be the one asked about.
    """
    living = {pid: started for pid, started, _ in rows}

    def lives(backend: Backend) -> bool:
        started = living.get(backend.pid)
        return started is not None and (
            not started or not backend.started or started == backend.started
        )

    return [orphan for orphan in orphans if not lives(orphan.backend)]


def to_be_ended(orphans: Iterable[Orphan], rows: Sequence[Row]) -> list[int]:
    """The pids of the backends that ought to be gone, and are beyond doubt those of the orphans."""
    ours = {(pid, started) for pid, started, ours in rows if ours and started}
    return [orphan.backend.pid for orphan in orphans if orphan.overdue and orphan.backend in ours]
