"""Whether a pooler stands between us and the server, and whether it pools sessions or transactions.

A pooler makes up the process id that it tells a client at login, so it differs from the one that
``pg_backend_pid()`` answers. The rest follows from which server process answers which client: a
session pooler ties each client to one, and a transaction pooler hands the same one to another
client as soon as a transaction ends. :func:`interview` decides by these process ids, with no I/O;
:func:`detect` puts its questions to two real connections.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from enum import Enum
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import psycopg
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn

__all__ = [
    "FIRST",
    "LATE",
    "SECOND",
    "Interview",
    "Kind",
    "Question",
    "detect",
    "interview",
]

Kind: TypeAlias = Literal["none", "session", "transaction"]
"""``none`` where there is no pooler, else for how long one ties a client to a server connection.

One that pools statements counts as ``transaction``."""

ROUNDS = 4
"""How often both are asked before it is believed that no server connection serves them both."""
TIMEOUT = 2.0
"""Seconds after which an answer is late. A client that has a server connection has one at once."""
DRAIN_TIMEOUT = 30.0
"""Seconds to wait for an answer without which the caller's connection could not be used again."""
POLL = 0.05


class Question(Enum):
    """What :func:`interview` wants next."""

    FIRST = "ask the first connection which process serves it"
    SECOND = "ask the second one"
    AGAIN = "look whether the second one has answered by now; do not ask, and do not wait"
    DRAIN = "wait for the first one's answer, however long it takes"


FIRST, SECOND, AGAIN, DRAIN = Question

LATE = None
"""The answer to a question that was not answered in time; any other answer is a process id."""

Interview: TypeAlias = Generator[Question, int | None, Kind]


def interview(told: int) -> Interview:
    """Ask which processes serve a first and a second connection, and judge by the answers.

    It yields questions, is sent the answers, and returns the verdict.

    :param told: the process id that the first connection was told at login.
    """
    first: set[int | None] = {(yield FIRST)}
    if told in first:
        return "none"
    second: set[int | None] = set()
    for _ in range(ROUNDS):
        # The first is asked twice running. Otherwise a pooler that has two server connections and
        # takes them in turn would always serve each of the two clients by the same one.
        for question, served in ((FIRST, first), (FIRST, first), (SECOND, second)):
            answer = yield question
            if answer is LATE and question is FIRST:
                # It was served a moment ago and has to wait now, so it holds no server connection.
                yield DRAIN
                return "transaction"
            if answer is LATE:
                # No server connection is free. If the first is still served, it holds one of its
                # own: otherwise it would have to queue behind the second.
                if (yield FIRST) is LATE:
                    yield DRAIN
                    return "transaction"
                if (answer := (yield AGAIN)) is LATE:
                    return "session"
            served.add(answer)
            if len(served) > 1 or first & second:
                return "transaction"
    return "session"


def detect(
    conn: psycopg.Connection[Any],
    connect_another: Callable[[], psycopg.Connection[Any]],
    *,
    timeout: float = TIMEOUT,
) -> Kind:
    """What stands between *conn*, which must be in no transaction, and the server.

    If there is a pooler, *connect_another* is called once, for a second connection by the same way,
    which is closed at the end. It takes about a dozen round trips, or about *timeout* seconds
    where the pooler has no server connection left.

    Raises :exc:`ValueError` where *conn* is in a transaction, :exc:`psycopg.OperationalError` where
    it gets no answer at all, and what *connect_another* raises.
    """
    _insist_idle(conn)
    questions = interview(conn.info.backend_pid)
    with ExitStack() as stack:
        second: psycopg.Connection[Any] | None = None
        question = next(questions)
        while True:
            if question is SECOND and second is None:
                second = stack.enter_context(closing(connect_another()))
            asked = conn if second is None or question in (FIRST, DRAIN) else second
            answer = asked.wait(_served_by(asked.pgconn, question, timeout), POLL)
            try:
                question = questions.send(answer)
            except StopIteration as end:
                verdict: Kind = end.value
                return verdict


def _insist_idle(conn: psycopg.Connection[Any]) -> None:
    from psycopg.pq import TransactionStatus

    status = conn.info.transaction_status
    if status != TransactionStatus.IDLE:
        raise ValueError(
            f"detecting a pooler needs an idle connection, and this one is {status.name}: within "
            f"a transaction every pooler keeps to one server connection. Commit first"
        )


def _served_by(pgconn: PGconn, question: Question, timeout: float) -> PQGen[int | None]:
    """Put one question to a connection, as a generator for its ``wait()``; LATE when out of time.

    psycopg's own ``execute()`` would begin a transaction, prepare the statement, and wait without a
    bound.
    """
    from psycopg import OperationalError
    from psycopg.pq import ExecStatus
    from psycopg.waiting import Wait

    if question is DRAIN:
        timeout = DRAIN_TIMEOUT
    elif question is AGAIN:
        timeout = 0
    else:
        pgconn.send_query(b"SELECT pg_backend_pid()")
        while pgconn.flush():
            yield Wait.W
    until = monotonic() + timeout
    while pgconn.is_busy():
        pgconn.consume_input()
        if not pgconn.is_busy():
            break
        if monotonic() >= until:
            if question is DRAIN:
                raise OperationalError(f"no answer within {timeout:g} s")
            return LATE
        yield Wait.R
    pid = None
    while result := pgconn.get_result():
        if result.status != ExecStatus.TUPLES_OK:
            raise OperationalError(result.error_message.decode(errors="replace").strip())
        pid = int(result.get_value(0, 0) or 0)
    return pid
