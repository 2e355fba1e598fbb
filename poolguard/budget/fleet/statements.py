"""What a host's control session asks its server: the SQL of the fleet's protocol.

The first number of each lock is its class, and the second the slot's (:class:`.Keys`). A claim
takes the lease exclusively, looks whether the seat is free, and then keeps the lease shared: so one
host has it, and both of a host's control sessions can have it while one succeeds the other.
"""

from __future__ import annotations

import random
from collections.abc import Collection

from ..session import ASK_ALIVE, END
from .board import Line, prefix
from .keys import DOOR, Keys

__all__ = [
    "CONTROL_TIMEOUT",
    "FACTS",
    "alive",
    "alone",
    "board",
    "calm",
    "claim",
    "claim_seat",
    "claim_these",
    "end",
    "end_session",
    "give",
    "hold",
    "is_there",
    "listen",
    "nothing",
    "notify",
    "number",
    "peek",
    "prove",
    "publish",
    "set_up",
    "sit",
    "stand_up",
]

CONTROL_TIMEOUT = 5.0
"""Seconds that a statement of a control session may take."""
MOST_HOSTS = 1 << 16
SILENCE = 25
"""Seconds after which the server ends a control session whose host it does not hear any more."""

FACTS = """
SELECT pg_backend_pid() AS pid, pg_is_in_recovery() AS standby,
       extract(epoch FROM pg_postmaster_start_time())::float8 AS server,
       current_setting('max_locks_per_transaction')::int
         * (current_setting('max_connections')::int
            + current_setting('max_prepared_transactions')::int) AS locks
"""
"""Asks what server this is, and how many locks its table is sure to hold."""


def set_up() -> str:
    """Set what a session needs that idles for long, and must not be left alone for long."""
    wanted = {
        "statement_timeout": f"{CONTROL_TIMEOUT:g}s",
        "lock_timeout": f"{CONTROL_TIMEOUT:g}s",
        "idle_session_timeout": "0",
        "default_transaction_read_only": "off",
        # A notification writes to the log of transactions, and need not wait for the disk.
        "synchronous_commit": "off",
        "search_path": "pg_catalog",
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": f"{SILENCE}s",
    }
    return "SELECT " + ", ".join(
        f"CASE WHEN current_setting('{name}', true) IS NOT NULL "
        f"THEN set_config('{name}', '{value}', false) END"
        for name, value in wanted.items()
    )


def publish(keys: Keys, line: Line) -> str:
    """Write the host's line on the board."""
    return f"SELECT set_config('application_name', {_text(line.text(keys))}, false)"


def board(keys: Keys) -> str:
    """Ask for the lines of all members, whatever version of the protocol they go by."""
    age = "extract(epoch FROM clock_timestamp() - backend_start)::float8"
    return (
        f"SELECT pid, application_name AS name, {age} AS age FROM pg_stat_activity "
        f"WHERE datname = current_database() AND application_name LIKE 'poolguard %{keys.short}:%'"
    )


def claim(
    keys: Keys,
    n: int,
    end: int,
    mine: Collection[int],
    *,
    sure: int = 0,
    left: int = 0,
    yields: bool = False,
    mark: bool = False,
) -> str:
    """Claim up to *n* free slots below *end*, but for the door, wherever the search begins. Where
    there are fewer, see as well how many are lost: occupied, and leased by no host.

    :param mine: slots that this session has leased already.
    :param sure: so many are claimed even if fewer than *left* remain.
    :param left: so many that are free are left to others.
    :param yields: claim none while another host needs what is its by right.
    :param mark: say from now on that this host does.
    """
    # A lock's function in WHERE, below a LIMIT, takes whatever it looks at, and so is the one thing
    # that stops the search: OFFSET 0 keeps the planner from moving it.
    taken = (
        f"SELECT i FROM ({_all_below(end)} OFFSET 0) s "
        f"WHERE CASE WHEN i = ANY({_array(mine)}) THEN false ELSE {_is_claimed(keys, 'i')} END "
        f"LIMIT {n + left}"
    )
    claimed = f"array({taken})"
    lock = f"({keys.urgent}, 0)"
    if yields:
        is_calm = f"pg_try_advisory_lock{lock} AND pg_advisory_unlock{lock}"
        claimed = f"CASE WHEN {is_calm} THEN {claimed} ELSE '{{}}' END"
    marked = f", pg_advisory_lock_shared{lock}" if mark else ""
    lost = (
        f"SELECT count(*) FROM ({_all_below(end)} OFFSET 0) s WHERE CASE "
        f"WHEN i = ANY({_array(mine)} || claimed) THEN false ELSE {_is_lost(keys, 'i')} END"
    )
    found = f"SELECT {claimed} AS claimed OFFSET 0"
    if left:
        kept = f"least({n}, greatest({sure}, cardinality(claimed) - {left}))"
        unlock = f"pg_advisory_unlock_shared({keys.lease}, i)"
        back = f"SELECT count({unlock}) FROM unnest(claimed[{kept} + 1:]) i"
        found = f"SELECT claimed[:{kept}] AS claimed, ({back}) AS back FROM ({found}) f OFFSET 0"
    return (
        f"SELECT claimed, CASE WHEN cardinality(claimed) < {n} THEN ({lost}) END AS lost{marked} "
        f"FROM ({found}) c"
    )


def claim_seat(keys: Keys, end: int) -> str:
    """Claim one free slot below *end* for this very session, and occupy it; the door where there is
    no other."""
    slots = f"{_all_below(end)} UNION ALL SELECT {DOOR}"
    lease, seat = f"({keys.lease}, i)", f"({keys.seat}, i)"
    return (
        f"SELECT array(SELECT i FROM ({slots} OFFSET 0) s WHERE "
        f"CASE WHEN NOT pg_try_advisory_lock{lease} THEN false "
        f"WHEN NOT pg_try_advisory_lock{seat} THEN NOT pg_advisory_unlock{lease} "
        f"ELSE pg_try_advisory_lock_shared{lease} AND pg_advisory_unlock{lease} END "
        f"LIMIT 1) AS claimed"
    )


def nothing() -> str:
    """Claim none."""
    return "SELECT '{}'::int[] AS claimed"


def claim_these(keys: Keys, slots: Collection[int]) -> str:
    """Claim those of these very *slots* that are free."""
    chosen = f"SELECT i FROM unnest({_array(slots)}) i WHERE {_is_claimed(keys, 'i')}"
    return f"SELECT array({chosen}) AS claimed"


def _is_claimed(keys: Keys, slot: str) -> str:
    lease, seat = f"({keys.lease}, {slot})", f"({keys.seat}, {slot})"
    return (
        f"CASE WHEN NOT pg_try_advisory_lock{lease} THEN false "
        f"WHEN NOT pg_try_advisory_lock{seat} THEN NOT pg_advisory_unlock{lease} "
        f"ELSE pg_advisory_unlock{seat} AND pg_try_advisory_lock_shared{lease} "
        f"AND pg_advisory_unlock{lease} END"
    )


def _is_lost(keys: Keys, slot: str) -> str:
    lease, seat = f"({keys.lease}, {slot})", f"({keys.seat}, {slot})"
    return (
        f"CASE WHEN NOT pg_try_advisory_lock{lease} THEN false "
        f"WHEN NOT pg_try_advisory_lock{seat} THEN pg_advisory_unlock{lease} "
        f"ELSE NOT (pg_advisory_unlock{seat} AND pg_advisory_unlock{lease}) END"
    )


def hold(keys: Keys, slots: Collection[int]) -> str:
    """Lease these *slots*, which this host uses, or has leased by another control session. Another
    host may have leased one of them meanwhile (:func:`alone`)."""
    return (
        f"SELECT array(SELECT i FROM unnest({_array(slots)}) i "
        f"WHERE pg_try_advisory_lock_shared({keys.lease}, i)) AS claimed"
    )


def alone(keys: Keys, slots: Collection[int]) -> str:
    """See which of these *slots*, which this session has leased, no other session has leased."""
    lease = f"({keys.lease}, i)"
    return (
        f"SELECT array(SELECT i FROM unnest({_array(slots)}) i "
        f"WHERE pg_try_advisory_lock{lease} AND pg_advisory_unlock{lease}) AS claimed"
    )


def prove(keys: Keys, slots: Collection[int]) -> str:
    """See which of these *slots*, which this session has leased, nobody else has or occupies; the
    others are given back."""
    lease, seat = f"({keys.lease}, i)", f"({keys.seat}, i)"
    return (
        f"SELECT array(SELECT i FROM unnest({_array(slots)}) i WHERE CASE "
        f"WHEN NOT pg_try_advisory_lock{lease} THEN NOT pg_advisory_unlock_shared{lease} "
        f"WHEN NOT pg_try_advisory_lock{seat} THEN NOT (pg_advisory_unlock{lease} "
        f"AND pg_advisory_unlock_shared{lease}) "
        f"ELSE pg_advisory_unlock{seat} AND pg_advisory_unlock{lease} END) AS claimed"
    )


def give(keys: Keys, slots: Collection[int]) -> str:
    """Give these *slots* back."""
    return (
        f"SELECT count(pg_advisory_unlock_shared({keys.lease}, i)) AS given "
        f"FROM unnest({_array(slots)}) i"
    )


def sit(keys: Keys, slot: int) -> str:
    """Occupy the slot that this session has been granted for itself."""
    return f"SELECT pg_try_advisory_lock({keys.seat}, {slot}) AS seated"


def stand_up(keys: Keys, slot: int) -> str:
    """Give back the slot that this session has occupied."""
    return (
        f"SELECT pg_advisory_unlock({keys.seat}, {slot}), "
        f"pg_advisory_unlock_shared({keys.lease}, {slot})"
    )


def calm(keys: Keys) -> str:
    """Take back that this host needs what is its by right."""
    return f"SELECT pg_advisory_unlock_shared({keys.urgent}, 0)"


def number(keys: Keys) -> str:
    """Have a number among the hosts, the lowest that no other has, until the session ends."""
    numbers = f"SELECT generate_series(1, {MOST_HOSTS}) AS i OFFSET 0"
    return f"SELECT i FROM ({numbers}) s WHERE pg_try_advisory_lock({keys.urgent}, i) LIMIT 1"


def peek(keys: Keys, end: int) -> str:
    """See whether another host needs what is its by right, and how many hosts there are: those with
    numbers below *end*."""
    numbers = f"SELECT generate_series(1, {end - 1}) AS i OFFSET 0"
    mark, number = f"({keys.urgent}, 0)", f"({keys.urgent}, i)"
    return (
        f"SELECT NOT (pg_try_advisory_lock{mark} AND pg_advisory_unlock{mark}) AS urgent, "
        f"(SELECT 1 + count(*) FROM ({numbers}) s WHERE CASE "
        f"WHEN pg_try_advisory_lock_shared{number} "
        f"THEN NOT pg_advisory_unlock_shared{number} ELSE true END) AS hosts"
    )


def listen(keys: Keys, *, on: bool) -> str:
    """Hear, or hear no more, what hosts tell each other."""
    return f"{'LISTEN' if on else 'UNLISTEN'} {keys.channel}"


def notify(keys: Keys, text: str) -> str:
    """Tell all other hosts."""
    return f"SELECT pg_notify('{keys.channel}', {_text(text)})"


def end_session(keys: Keys, pid: int) -> str:
    """End the control session that this host had before, should its server still have it."""
    return (
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = {int(pid)} "
        f"AND usename = current_user AND application_name LIKE '{prefix(keys)}%'"
    )


def is_there(pid: int) -> str:
    """Ask whether that session is still there: while it is, it may hold locks."""
    return f"SELECT count(*) > 0 AS there FROM pg_stat_get_activity({int(pid)})"


def alive(pids: Collection[int]) -> str:
    """Ask which of these backends still exist."""
    return ASK_ALIVE % {"pids": _array(pids)}


def end(pids: Collection[int]) -> str:
    """End these backends."""
    return END % {"pids": _array(pids)}


def _all_below(end: int) -> str:
    """The slots from 1 on, in turn, from anywhere: hosts that claim at once meet rarely."""
    n = max(1, end - 1)
    start = random.randrange(n)
    return f"SELECT 1 + (g + {start}) % {n} AS i FROM generate_series(0, {n - 1}) g"


def _array(numbers: Collection[int]) -> str:
    return f"'{{{','.join(str(int(n)) for n in numbers)}}}'::int[]"


def _text(value: str) -> str:
    return "'" + value.replace("\\", "").replace("'", "''") + "'"
