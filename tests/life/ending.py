"""Events of the matrix: how a worker ends, by each signal and from each state."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from time import monotonic
from typing import Any

from ..doors.server import GEVENT, GTHREAD, UVICORN, Server
from ..support import alive, until
from .stage import Event, Stage

__all__ = ["EVENTS"]

HANGING: Mapping[str, Any] = {"POOLGUARD_WARMUP_TIMEOUT": "60", "POOLGUARD_CONNECT_TIMEOUT": "60"}
SIZE: Mapping[str, Any] = {"POOLGUARD_BUDGET": "4", "POOLGUARD_FLOOR": "2"}
GRACE = 5
"""A short graceful timeout, in seconds, for what lasts so long."""
LONG: Mapping[str, Any] = {"TEST_SLEEP": "30", "TEST_GRACEFUL_TIMEOUT": str(GRACE)}
"""A request that outlives the server, and little patience with it."""
KILLED = 5.0
"""Seconds after the graceful timeout within which a busy machine has seen a killed worker end."""
WARMING = 3.0
"""Seconds in which a worker whose warm-up hangs has ended."""
GONE = 1.0
"""Seconds after its end in which a worker's connections are gone at the server."""


def term_while_warming(stage: Stage) -> str:
    """SIGTERM during a warm-up that hangs ends the server at once."""
    return _stopped_while_warming(stage, signal.SIGTERM)


def ctrl_c_while_warming(stage: Stage) -> str:
    """Ctrl-C does too. It reaches the worker twice: as SIGINT, and as the master's SIGQUIT."""
    return _stopped_while_warming(stage, signal.SIGINT, whole_group=True)


def signals_to_a_worker(stage: Stage) -> str:
    """An idle worker that is told to end closes its connections, and is replaced."""
    server = stage.serve(stage.dsn(), **SIZE)
    slowest = 0.0
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGABRT):
        before = _ready(server)
        theirs = set(stage.backends())
        assert len(theirs) == 2
        began = monotonic()
        os.kill(before, number)
        if stage.door is UVICORN and number == signal.SIGQUIT:
            assert _ready(server) == before, "uvicorn's worker ignores SIGQUIT"
            continue
        until(lambda before=before: not alive(before))  # type: ignore[misc]
        slowest = max(slowest, monotonic() - began)
        until(lambda theirs=theirs: not theirs & set(stage.backends()), within=GONE)  # type: ignore[misc]
    _ready(server)
    seconds = _ended_by(server, signal.SIGINT, whole_group=True)
    # SIGABRT, as Ctrl-C, may cut what a worker does at this moment.
    _nothing_left(stage, server, may_cut=True)
    assert set(server.lines("threads left")) <= {"threads left: none"}
    assert set(server.lines("tasks left")) <= {"tasks left: none"}
    return f"{slowest:.1f} s, Ctrl-C {seconds:.1f} s"


def term_twice_in_a_request(stage: Stage) -> str:
    """The idle connection is given up at once, the request is answered, and a second SIGTERM,
    while it still runs, changes nothing."""
    server = stage.serve(stage.dsn(), TEST_SLEEP="3", **SIZE)
    worker = _ready(server)
    began = monotonic()
    with server.getting("/sleep") as answer:
        until(stage.asleep)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: stage.backends() == stage.asleep())
        server.process.send_signal(signal.SIGTERM)
        os.kill(worker, signal.SIGTERM)
        assert answer().status == 200
    assert server.wait(20) == 0
    seconds = monotonic() - began
    assert seconds < 10, "no longer than the graceful timeout"
    _nothing_left(stage, server)
    assert set(server.lines("the pool is")) == {"the pool is closed"}
    assert set(server.lines("threads left")) <= {"threads left: none"}
    assert set(server.lines("tasks left")) <= {"tasks left: none"}
    return f"answered, {seconds:.1f} s"


def quit_in_a_request(stage: Stage) -> str:
    """SIGQUIT cuts the request, and its query does not go on at the server.

    Two classes wait for it all the same, until gunicorn kills them: uvicorn's worker ignores
    SIGQUIT, and Python waits for the threads of gthread's pool.
    """
    server = stage.serve(stage.dsn(), **SIZE, **LONG)
    _ready(server)
    with server.getting("/sleep"):
        until(stage.asleep)
        seconds = _ended_by(server, signal.SIGQUIT)
    if stage.door in (UVICORN, GTHREAD):
        assert seconds < GRACE + KILLED
    else:
        assert seconds < GRACE
        assert not server.lines("SIGKILL")
    _nothing_left(stage, server, may_cut=True, in_a_query=True)
    return f"cut, {seconds:.1f} s"


def term_while_the_server_hangs(stage: Stage) -> str:
    """Not a packet passes any more: an idle worker ends of itself, and one that has a request in
    mid-query when gunicorn kills it."""
    with stage.network(0) as network:
        dsn = stage.dsn(network)
        idle = stage.serve(dsn, TEST_GRACEFUL_TIMEOUT="20", **SIZE)
        busy = stage.serve(dsn, **SIZE, **LONG)
        _ready(idle)
        _ready(busy)
        with busy.getting("/sleep"):
            until(stage.asleep)
            network.blackhole()
            began = monotonic()
            idle.process.send_signal(signal.SIGTERM)
            seconds = _ended_by(busy, signal.SIGTERM)
            assert seconds < GRACE + KILLED
            assert idle.wait(30) == 0
            alone = monotonic() - began
    assert alone < 20, "no longer than its graceful timeout"
    assert not idle.lines("SIGKILL")
    assert set(idle.lines("the pool is")) == {"the pool is closed"}
    _nothing_left(stage, idle, in_a_query=True)
    _nothing_left(stage, busy, in_a_query=True, was_late=True)
    return f"idle {alone:.1f} s, busy {seconds:.1f} s"


def _stopped_while_warming(stage: Stage, number: int, *, whole_group: bool = False) -> str:
    with stage.network() as network:
        network.blackhole()
        server = stage.serve(stage.dsn(network), **HANGING)
        until(lambda: network.stats()["accepted"], within=30)
        seconds = _ended_by(server, number, whole_group=whole_group)
        _nothing_left(stage, server, may_cut=whole_group and stage.door is GEVENT)
    assert seconds < WARMING, "pool and connects are not waited for"
    return f"{seconds:.1f} s"


def _ready(server: Server) -> int:
    """Wait for a worker to be ready with its floor idle; its pid."""
    found = server.status()

    def ready() -> bool:
        found.update(server.status())
        return bool(found["ready"] and found["idle"] == 2)

    until(ready)
    return int(found["pid"])


def _ended_by(server: Server, number: int, *, whole_group: bool = False) -> float:
    """Send a signal to the master, or to all, as a terminal does; the seconds it took to end."""
    began = monotonic()
    if whole_group:
        os.killpg(server.process.pid, number)
    else:
        server.process.send_signal(number)
    assert server.wait(40) == 0, server.said()
    return monotonic() - began


def _nothing_left(
    stage: Stage,
    server: Server,
    *,
    may_cut: bool = False,
    in_a_query: bool = False,
    was_late: bool = False,
) -> None:
    """No process, no backend, no complaint.

    :param may_cut: the signal may have cut a request or gevent's own ending. gunicorn logs the
        traceback of its SystemExit, and psycopg that a connection was broken.
    :param in_a_query: a backend looks once a second whether its client is still there.
    :param was_late: an idle connection was to ask about a query, and was not answered either.
    """
    # A worker that gunicorn kills may outlive its master by a moment.
    until(lambda: not server.processes(), within=5)
    until(lambda: not stage.backends(), within=5 if in_a_query else GONE)
    said = server.said()
    for word in ("couldn't stop thread", "never awaited", "was destroyed"):
        assert not server.lines(word), said
    if not may_cut:
        complaints = [line for line in said.splitlines() if line.startswith("psycopg")]
        if was_late:
            complaints = [line for line in complaints if "discarding broken" not in line]
        assert not complaints, said
    if may_cut:
        assert len(server.lines("Traceback")) == len(server.lines("SystemExit: ")), said
    else:
        assert not server.lines("Traceback"), said


EVENTS: Mapping[str, Event] = {
    "TERM while warming up": term_while_warming,
    "Ctrl-C while warming up": ctrl_c_while_warming,
    "signals to a worker": signals_to_a_worker,
    "TERM twice in a request": term_twice_in_a_request,
    "QUIT in a request": quit_in_a_request,
    "TERM, the server hangs": term_while_the_server_hangs,
}
