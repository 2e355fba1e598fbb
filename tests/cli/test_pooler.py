"""Poolers are told by process ids: first on paper, then with a real PgBouncer."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
import pytest

from poolguard.cli.pooler import (
    LATE,
    Question,
    detect,
    interview,
)
from poolguard.errors import LabError
from poolguard.lab.janitor import Janitor
from poolguard.lab.pgbouncer import PgBouncer
from poolguard.lab.postgres import PrivatePostgres
from tests.support import StartPgBouncer, alive, until

SHORT = 0.3
"""Seconds within which an answer is expected where none will come."""

OWNER = """
import signal, sys
from poolguard.lab.pgbouncer import PgBouncer
with PgBouncer(sys.argv[1]) as bouncer:
    print(bouncer.pid, bouncer.folder, flush=True)
    signal.pause()
"""

F, S, A, D = Question


Answers = list[tuple[Question, int | None]]


def told(answers: Answers, login: int = 1) -> str:
    """The verdict on these answers, each to the question that must have been asked for it."""
    questions = interview(login)
    asked = next(questions)
    for question, answer in answers[:-1]:
        assert asked is question
        asked = questions.send(answer)
    question, answer = answers[-1]
    assert asked is question
    with pytest.raises(StopIteration) as end:
        questions.send(answer)
    return str(end.value.value)


# -- on paper


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ([(F, 1)], "none"),
        # the second is served by what served the first
        ([(F, 7), (F, 7), (F, 7), (S, 7)], "transaction"),
        # the first moves; a pooler that takes two in turn
        ([(F, 7), (F, 8)], "transaction"),
        ([(F, 7), (F, 7), (F, 7), (S, 8), (F, 8)], "transaction"),
        # the second moves, or meets the first in a later round
        ([(F, 7), (F, 7), (F, 7), (S, 8), (F, 7), (F, 7), (S, 9)], "transaction"),
        ([(F, 7)] + 4 * [(F, 7), (F, 7), (S, 8)], "session"),
        # no server connection is free: the first has its own
        ([(F, 7), (F, 7), (F, 7), (S, LATE), (F, 7), (A, LATE)], "session"),
        # the second had only to wait for its turn, and got the same one after all
        ([(F, 7), (F, 7), (F, 7), (S, LATE), (F, 7), (A, 7)], "transaction"),
        # the first has to wait, too
        ([(F, 7), (F, 7), (F, 7), (S, LATE), (F, LATE), (D, 7)], "transaction"),
        ([(F, 7), (F, LATE), (D, 7)], "transaction"),
    ],
)
def test_the_decision(answers: Answers, verdict: str) -> None:
    assert told(answers) == verdict


def test_a_late_answer_counts_like_another() -> None:
    """The rounds go on with it."""
    first_round: Answers = [(F, 7), (F, 7), (S, LATE), (F, 7), (A, 8)]
    later_round: Answers = [(F, 7), (F, 7), (S, 8)]
    assert told([(F, 7), *first_round, *later_round, *later_round, *later_round]) == "session"


# -- in front of a server


def test_no_pooler(postgres: PrivatePostgres) -> None:
    """Told by one connection alone."""
    with postgres.connect() as conn:
        assert detect(conn, lambda: pytest.fail("a second connection was made")) == "none"


@pytest.mark.parametrize(
    ("pool_mode", "verdict"),
    [("session", "session"), ("transaction", "transaction"), ("statement", "transaction")],
)
def test_each_mode(start_pgbouncer: StartPgBouncer, pool_mode: str, verdict: str) -> None:
    """Afterwards the connection is as it was, and the second one is closed."""
    bouncer = start_pgbouncer(pool_mode)
    made: list[Any] = []

    def another() -> psycopg.Connection[Any]:
        second = bouncer.connect()
        made.append(second)
        return second

    with bouncer.connect() as conn:
        assert detect(conn, another) == verdict
        assert conn.execute("SELECT 1").fetchone() == (1,)
    assert [each.closed for each in made] == [True]


def test_one_that_takes_its_server_connections_in_turn(start_pgbouncer: StartPgBouncer) -> None:
    """With two of them, the first might always be served by the same one."""
    bouncer = start_pgbouncer("transaction", server_round_robin="1")
    with bouncer.connect() as one, bouncer.connect() as two, bouncer.connect() as conn:
        with one.transaction(), two.transaction():
            pids = {c.execute("SELECT pg_backend_pid()").fetchone() for c in (one, two)}
        assert len(pids) == 2
        assert detect(conn, bouncer.connect) == "transaction"


def test_a_full_session_pooler(start_pgbouncer: StartPgBouncer) -> None:
    """The second never gets a server connection, and the first keeps its own."""
    bouncer = start_pgbouncer("session", default_pool_size="1")
    with bouncer.connect() as conn:
        began = monotonic()
        assert detect(conn, bouncer.connect, timeout=SHORT) == "session"
        assert SHORT <= monotonic() - began < SHORT + 1
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_full_transaction_pooler(start_pgbouncer: StartPgBouncer) -> None:
    """Neither is served while another client is in a transaction; the first is in the end."""
    bouncer = start_pgbouncer("transaction", default_pool_size="1")
    with bouncer.connect() as conn, bouncer.connect() as busy:
        timer = threading.Timer(3 * SHORT, busy.rollback)

        def another() -> psycopg.Connection[Any]:
            busy.autocommit = False
            busy.execute("SELECT 1")
            timer.start()
            return bouncer.connect()

        assert detect(conn, another, timeout=SHORT) == "transaction"
        timer.join()
        assert conn.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("pool_mode", ["session", "transaction"])
def test_while_others_are_served_in_between(
    start_pgbouncer: StartPgBouncer, pool_mode: str
) -> None:
    bouncer = start_pgbouncer(
        pool_mode, default_pool_size="4" if pool_mode == "transaction" else "20"
    )
    stop = threading.Event()
    served: list[int] = []

    def traffic() -> None:
        # psycopg's prepared statements would fail where this PgBouncer pools transactions
        with bouncer.connect(prepare_threshold=None) as conn:
            while not stop.is_set():
                conn.execute("SELECT 1")
                served.append(1)

    others = [threading.Thread(target=traffic) for _ in range(3)]
    for other in others:
        other.start()
    try:
        until(lambda: len(served) > 100)
        for _ in range(5):
            with bouncer.connect() as conn:
                assert detect(conn, bouncer.connect) == pool_mode
    finally:
        stop.set()
        for other in others:
            other.join()


def test_within_a_transaction_it_cannot_be_told(postgres: PrivatePostgres) -> None:
    with postgres.connect() as conn, conn.transaction():
        conn.execute("SELECT 1")
        with pytest.raises(ValueError, match="needs an idle connection, and this one is INTRANS"):
            detect(conn, postgres.connect)


def test_a_connection_that_commits_by_hand(start_pgbouncer: StartPgBouncer) -> None:
    """Without autocommit no transaction is left open either."""
    bouncer = start_pgbouncer("transaction")
    with psycopg.connect(bouncer.conninfo()) as conn:
        assert detect(conn, lambda: psycopg.connect(bouncer.conninfo())) == "transaction"
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_no_second_connection_to_be_had(start_pgbouncer: StartPgBouncer) -> None:
    """What connecting raises is for the caller."""
    bouncer = start_pgbouncer("transaction", max_client_conn="1")
    with bouncer.connect() as conn:
        with pytest.raises(psycopg.OperationalError, match="no more connections allowed"):
            detect(conn, bouncer.connect)
        assert conn.execute("SELECT 1").fetchone() == (1,)


# -- the lab's PgBouncer


def test_it_leaves_nothing_behind(postgres: PrivatePostgres, pgbouncer: None) -> None:
    with Janitor() as janitor:
        with PgBouncer(postgres.dsn, janitor=janitor) as bouncer:
            pid, folder = bouncer.pid, bouncer.folder
            assert "running" in repr(bouncer)
            assert folder.exists()
        assert "stopped" in repr(bouncer)
        assert not alive(pid)
        assert not folder.exists()


def test_it_ends_with_its_owner(postgres: PrivatePostgres, pgbouncer: None) -> None:
    """Also when that is killed."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, postgres.dsn], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    pid, folder = owner.stdout.readline().split()
    assert alive(int(pid))
    owner.kill()
    owner.communicate()
    until(lambda: not alive(int(pid)) and not Path(folder).exists())


def test_a_forked_child_does_not_end_it(start_pgbouncer: StartPgBouncer) -> None:
    bouncer = start_pgbouncer("session")
    child = os.fork()
    if child == 0:
        bouncer.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    bouncer.connect().close()


def test_a_port_that_is_taken(
    start_pgbouncer: StartPgBouncer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At first it takes another one. Later its clients know the port, so no other one would do."""
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        taken = squatter.getsockname()[1]
        monkeypatch.setattr("random.sample", lambda ports, _: [taken, *ports[:20]])
        bouncer = start_pgbouncer("session")
        assert bouncer.port != taken
        bouncer.connect().close()
    bouncer.close()
    with (
        socket.create_server(("127.0.0.1", bouncer.port)),
        pytest.raises(LabError, match=rf"port {bouncer.port} on 127.0.0.1 is in use .*PgBouncer"),
    ):
        bouncer.start()


def test_it_lets_nobody_in_without_a_password(start_pgbouncer: StartPgBouncer) -> None:
    bouncer = start_pgbouncer("session")
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        bouncer.connect(password="wrong")


def test_a_setting_that_it_does_not_know(start_pgbouncer: StartPgBouncer) -> None:
    with pytest.raises(LabError, match=r"did not start .*: correct what it complains about"):
        start_pgbouncer("session", default_pool_size="many")
    with pytest.raises(LabError, match="'auth_type' is chosen by the lab itself"):
        start_pgbouncer("session", auth_type="trust")


def test_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, postgres: PrivatePostgres) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("poolguard.lab.pgbouncer._PLACES", ())
    with pytest.raises(LabError, match="install the system's package pgbouncer"):
        PgBouncer(postgres.dsn)
