"""Events of the matrix: how a worker begins, with the database there, slow, away or full."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from secrets import token_hex
from time import monotonic

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ..doors.server import SYNC
from ..support import until
from .stage import Event, Stage

__all__ = ["EVENTS"]

WATCHED = 2.5
"""Seconds for which a worker without a database is asked, and its log watched."""
DOUBLING = 5
"""Lines of psycopg_pool's that are rare: of connects that fail one tells of the 1st, 2nd, 4th, 8th
and 16th, and in that time there are not more."""


def first_requests(stage: Stage) -> str:
    """The first 30 requests create nothing and wait for nothing, where connects take 150 ms."""
    at_once = 1 if stage.door is SYNC else 3
    with stage.network() as network:
        server = stage.serve(stage.dsn(network), POOLGUARD_BUDGET="8", POOLGUARD_FLOOR=str(at_once))
        for _ in range(30 // at_once):
            answers = server.get_together(*["/query"] * at_once)
            assert [answer.status for answer in answers] == [200] * at_once
        status = server.status()
    assert status["acquires"] == {"acquired": 30}
    assert status["created"].keys() <= {"warmup", "headroom"}, "none for a request"
    return "30 acquired"


def server_away(stage: Stage) -> str:
    """Nobody listens there."""
    with stage.network(0) as network:
        network.refuse()
        return _waits_for_it(stage, stage.dsn(network), "refused", network.resume)


def server_slow(stage: Stage) -> str:
    """Each connect takes longer than ``connect_timeout``, of which psycopg makes 2 s at least."""
    with stage.network(6) as network:
        return _waits_for_it(
            stage,
            stage.dsn(network),
            "timeout",
            lambda: network.set(connect_delay=0),
            POOLGUARD_CONNECT_TIMEOUT="2",
            POOLGUARD_WARMUP_TIMEOUT="4",
        )


def server_full(stage: Stage) -> str:
    """The role may have one connection, and somebody else has it."""
    dsn = _role(stage, connection_limit=1)
    with psycopg.connect(dsn, application_name="somebody") as somebody:
        return _waits_for_it(stage, dsn, "too many connections for role", somebody.close)


def wrong_password(stage: Stage) -> str:
    """Neither the right one nor the one that was given is ever told."""
    dsn = _role(stage)
    right, wrong = str(conninfo_to_dict(dsn)["password"]), token_hex(16)

    def mend() -> None:
        role = sql.Identifier(_role_name(stage))
        stage.admin.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, sql.Literal(wrong)))

    return _waits_for_it(
        stage,
        make_conninfo(dsn, password=wrong),
        "password authentication failed",
        mend,
        secrets=(right, wrong),
    )


def wrong_database(stage: Stage) -> str:
    """It is created later."""
    name = f"database_of_{stage.door}"
    create = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
    return _waits_for_it(
        stage,
        make_conninfo(stage.dsn(), dbname=name),
        "does not exist",
        lambda: stage.admin.execute(create),
    )


def _role_name(stage: Stage) -> str:
    return f"role of {stage.name}"


def _role(stage: Stage, *, connection_limit: int = -1) -> str:
    """Make a role of this event's own, and return its conninfo."""
    made = stage.postgres.create_role(_role_name(stage), connection_limit=connection_limit)
    return make_conninfo(made, application_name=stage.name)


def _waits_for_it(
    stage: Stage,
    dsn: str,
    cause: str,
    mend: Callable[[], object],
    *,
    secrets: tuple[str, ...] = (),
    **environ: str,
) -> str:
    """The worker boots all the same, says once and clearly that it is not warm and rarely again,
    answers meanwhile, and serves as soon as *mend* has ended the *cause*."""
    environ = {"POOLGUARD_WARMUP_TIMEOUT": "2", **environ}
    server = stage.serve(
        dsn,
        port=None,
        door=None,
        POOLGUARD_BUDGET="1",
        POOLGUARD_ACQUIRE_TIMEOUT="0.3",
        POOLGUARD_CHECK_TIMEOUT="0.3",
        **environ,
    )
    pid = server.status()["pid"]
    watched_until = monotonic() + WATCHED
    asked = 0
    while monotonic() < watched_until:
        asked += 1
        answer = server.get("/query")
        assert answer.status == 503
        status = server.status()
        assert status["ready"] is False
        assert cause in status["last_error"]
        assert not [secret for secret in secrets if secret in f"{answer.body}{json.dumps(status)}"]
    (line,) = server.lines("poolguard 'default'")
    assert "WARNING" in line
    assert "is not warm" in line
    assert cause in line
    again = server.lines("psycopg.pool")
    assert len(again) <= DOUBLING, again

    mend()
    began = monotonic()
    until(lambda: server.status()["ready"])
    seconds = monotonic() - began
    assert server.get("/query").status == 200
    assert server.status()["pid"] == pid
    said = server.said()
    assert len(server.lines("Booting worker")) == 1
    assert not server.lines("Traceback"), said
    assert not [secret for secret in secrets if secret in said]
    return f"{asked} × 503, {len(again) + 1} lines, ready after {seconds:.1f} s"


EVENTS: Mapping[str, Event] = {
    "first requests": first_requests,
    "server away": server_away,
    "server slow": server_slow,
    "server full": server_full,
    "wrong password": wrong_password,
    "wrong database": wrong_database,
}
