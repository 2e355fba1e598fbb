"""The slots of connections that the network has lost without a word come back, and their sessions
end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from poolguard import Guard
from poolguard.lab.proxy import SlowProxy
from tests.pool.conftest import _gate, gate, gate_dsn
from tests.support import until

__all__ = ["_gate", "gate", "gate_dsn"]


def test_the_session_of_a_lost_connection_ends_and_its_slot_is_free(
    gate: SlowProxy, gate_dsn: str, admin: psycopg.Connection[Any]
) -> None:
    """Else the server would count it for a minute, which its own keepalives take."""
    limits: dict[str, Any] = {"budget": 4, "floor": 1, "max_size": 4, "check_timeout": 0.4}
    with (
        Guard(gate_dsn, mode="sync", **limits) as guard,
        ThreadPoolExecutor(1) as threads,
        guard.connection() as conn,
    ):
        pid = conn.info.backend_pid
        gate.silence_all()
        hung = threads.submit(conn.execute, "SELECT 1")
        # Another one is opened for this, and asks.
        with guard.connection() as other:
            other.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            hung.result(10)
        until(
            lambda: (
                not admin.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]).fetchall()
            )
        )
        until(lambda: guard.status()["budget"]["in_use"] == guard.pool.counts().size)
