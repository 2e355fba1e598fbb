"""What hosts exchange through the table of a real server, each with a clock of its own."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from poolguard.history import exchange
from poolguard.history.expected import decide, needed
from poolguard.history.minutes import DAY, HOUR, KEPT, Demand
from poolguard.history.table import Table
from poolguard.lab.janitor import Janitor
from poolguard.lab.postgres import PrivatePostgres
from poolguard.lab.standby import Standby
from poolguard.runtime.memory import ALONE
from tests.history.hosts import LATE, Host, connected, make_table
from tests.support import StartPgBouncer, until

NewHost = Callable[..., Host]
TABLE = Table("kept", "history")
MINUTE = 60.0
OWN_SETTINGS = """
SET search_path = nowhere; SET timezone = 'Asia/Kathmandu'; SET datestyle = 'German';
SET default_transaction_read_only = on; SET bytea_output = 'escape';
SET standard_conforming_strings = off; SET default_transaction_isolation = 'serializable';
SET client_encoding = 'LATIN1'; SET role = passer_by; SET statement_timeout = 1
"""


@pytest.fixture
def conn(postgres: PrivatePostgres) -> Iterator[psycopg.Connection]:
    with connected(postgres, TABLE) as made:
        yield made


@pytest.fixture
def host(tmp_path: Path) -> Iterator[NewHost]:
    """Makes hosts by their names; one of the same name is another process there."""
    made: list[Host] = []

    def new(name: str, table: Table = TABLE, **given: Any) -> Host:
        made.append(Host(tmp_path / name, table, **given))
        return made[-1]

    yield new
    for each in made:
        each.memory.close()


def alone(one: int, *, created: int = 0) -> Demand:
    """What one worker has seen that is alone on its host."""
    return Demand(one, one, 0, created, 0)


def rows_of(conn: psycopg.Connection) -> list[tuple[Any, ...]]:
    """The figures of all rows, from the earliest."""
    return conn.execute(
        f"SELECT one, host, waiting, created, level FROM {TABLE.quoted} ORDER BY minute"
    ).fetchall()


def settled(host: Host) -> int:
    """The last minute that is told now."""
    return int((host.now - exchange.SETTLED) // MINUTE) - 1


def ask_next(host: Host, conn: psycopg.Connection) -> None:
    host.now += MINUTE
    host.ask(conn)


# -- what is exchanged -------------------------------------------------------------------------


def test_two_hosts_learn_from_each_other(conn: psycopg.Connection, host: NewHost) -> None:
    """The figures are the highest of any host, and what was created is that of both."""
    a, b = host("a"), host("b")
    at = settled(a)
    a.record(at, Demand(9, 9, 0, 2, 4))
    b.record(at, Demand(3, 3, 1, 5, 6))
    a.ask(conn)
    b.ask(conn)
    assert rows_of(conn) == [(9, 9, 1, 7, 6)]
    assert b.known(at) == Demand(9, 9, 1, 7, 6)
    assert a.known(at) == Demand(9, 9, 0, 2, 4)
    ask_next(a, conn)
    assert a.known(at) == b.known(at)


def test_what_others_have_told_is_not_told_again_as_ones_own(
    conn: psycopg.Connection, host: NewHost
) -> None:
    a, b = host("a"), host("b")
    at = settled(a)
    a.record(at, alone(2, created=1))
    a.ask(conn)
    for _ in range(3):
        ask_next(b, conn)
        ask_next(a, conn)
    assert b.known(at) == Demand(2, 2, 0, 1, 0)
    assert [row[3] for row in rows_of(conn)] == [1]


def test_a_minute_that_is_not_told_yet_stays_the_hosts_own(
    conn: psycopg.Connection, host: NewHost
) -> None:
    a, b = host("a"), host("b")
    at = settled(a) + 1
    b.record(at, alone(4, created=3))
    b.now += MINUTE
    b.ask(conn)
    a.record(at, alone(1, created=1))
    a.ask(conn)
    assert a.known(at) == alone(1, created=1)
    ask_next(a, conn)
    assert [row[3] for row in rows_of(conn)] == [4]
    assert a.known(at) == alone(4, created=4)


def test_what_a_host_has_known_for_long_is_told_a_day_at_once(
    conn: psycopg.Connection, host: NewHost
) -> None:
    """The table is made late, or could not be used for a while."""
    a = host("a")
    last = settled(a)
    for at in range(last - 2 * DAY + 10, last + 1):
        a.record(at, alone(1))
    told = []
    for _ in range(3):
        ask_next(a, conn)
        told.append(len(rows_of(conn)))
    assert told == [DAY, 2 * DAY - 9, 2 * DAY - 9]


def test_a_new_host_reads_what_its_first_decision_looks_at(
    conn: psycopg.Connection, host: NewHost
) -> None:
    a, new = host("a"), host("new")
    at = int(new.now // MINUTE) - DAY
    for each in range(at - 2 * HOUR, at + 2 * HOUR):
        a.record(each, alone(9))
    a.ask(conn)
    assert new.learn(conn)
    assert [new.known(at + n) for n in (0, 19, -30)] == [alone(9)] * 3
    assert new.known(at - HOUR) is None
    assert len(new.asked) == 1


def test_another_process_of_the_host_need_not_read_it_again(
    conn: psycopg.Connection, host: NewHost
) -> None:
    one, other = host("a"), host("a")
    assert one.learn(conn)
    assert not other.learn(conn)
    assert other.asked == []


def test_what_decisions_look_at_goes_on_being_read(conn: psycopg.Connection, host: NewHost) -> None:
    """The boot has read twenty minutes ahead; what is needed in an hour is there in an hour."""
    a, new = host("a"), host("new")
    at = int(new.now // MINUTE) - DAY
    for each in range(at - HOUR, at + 3 * HOUR):
        a.record(each, alone(9))
    a.ask(conn)
    assert new.learn(conn)
    for n in range(HOUR):
        ask_next(new, conn)
        assert new.known(at + n + 1 + exchange.MARGIN) == alone(9)


def test_decisions_look_at_nothing_else_than_what_is_read_for_them() -> None:
    """Also where the clocks were changed in between."""
    chance = random.Random(4)

    class Looked:
        def __init__(self) -> None:
            self.at: set[int] = set()

        def read(self, first: int, end: int) -> Sequence[Demand | None]:
            self.at.update(range(first, end))
            busy = chance.choice([1, 30])
            return [alone(busy) for _ in range(first, end)]

    for _ in range(200):
        now = chance.randrange(29_000_000, 30_000_000)
        changed = now - chance.randrange(40 * DAY)

        def offset(at: int, changed: int = changed) -> int:
            return 60 if at >= changed else 0

        past, last = Looked(), now + chance.randrange(exchange.AHEAD)
        for at in (now, last):
            decide(at, past, floor=1, most=100, level=1, offset=offset)
        read = {at for first, end in needed(now, last, offset) for at in range(first, end)}
        assert past.at <= read


# -- when --------------------------------------------------------------------------------------


def test_a_host_asks_once_a_minute_however_many_processes_it_has(
    conn: psycopg.Connection, host: NewHost
) -> None:
    """Whichever of them looks first."""
    chance, asked = random.Random(2), list[float]()
    processes = [host("a") for _ in range(4)]
    began = processes[0].now - processes[0].now % MINUTE
    for seconds in range(0, 600, 5):
        for each in chance.sample(processes, 4):
            each.now, before = began + seconds, len(each.asked)
            each.ask(conn)
            asked += [each.now] * (len(each.asked) - before)
    assert [int((at - LATE - began) // MINUTE) for at in asked] == [-1, *range(10)]
    assert min(len(each.asked) for each in processes) > 0


def test_the_turn_of_a_process_that_dies_goes_to_another(
    conn: psycopg.Connection, host: NewHost
) -> None:
    one, other = host("a"), host("a")
    assert one.ring.told.begin()
    other.ask(conn)
    assert other.asked == []
    one.memory.close()  # as the kernel does
    other.ask(conn)
    assert len(other.asked) == 1


# -- what goes wrong ---------------------------------------------------------------------------


def test_a_lost_answer_counts_nothing_twice(
    conn: psycopg.Connection, host: NewHost, postgres: PrivatePostgres
) -> None:
    a = host("a")
    at = settled(a)
    a.record(at, Demand(5, 5, 0, 3, 0))
    with postgres.connect() as broken:
        broken.autocommit = True
        a.loses = True
        with pytest.raises(psycopg.OperationalError):
            a.ask(broken)
    assert rows_of(conn) == [(5, 5, 0, 3, 0)]
    a.loses = False
    a.record(at, Demand(6, 6, 0, 0, 0))  # it turns out to be more
    ask_next(a, conn)
    assert rows_of(conn) == [(6, 6, 0, 3, 0)]
    assert a.ring.told.read().told == settled(a)


def test_what_the_server_refuses_is_told_later(conn: psycopg.Connection, host: NewHost) -> None:
    a = host("a")
    a.record(settled(a), alone(5, created=3))
    conn.execute(f"ALTER TABLE {TABLE.quoted} RENAME TO away")
    a.ask(conn)
    conn.execute('ALTER TABLE "kept".away RENAME TO history')
    a.now += exchange.AGAIN * MINUTE
    a.ask(conn)
    assert [row[3] for row in rows_of(conn)] == [3]


def without_table(conn: psycopg.Connection) -> None:
    conn.execute(f"DROP TABLE {TABLE.quoted}")


def without_rights(conn: psycopg.Connection) -> None:
    conn.execute("DROP ROLE IF EXISTS passer_by; CREATE ROLE passer_by")
    conn.execute("SET SESSION AUTHORIZATION passer_by")


def with_other_columns(conn: psycopg.Connection) -> None:
    conn.execute(f"ALTER TABLE {TABLE.quoted} DROP COLUMN waiting")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without_table, "there is no table kept.history. Run poolguard history --create"),
        (
            without_rights,
            'GRANT SELECT, INSERT, UPDATE, DELETE ON "kept"."history" TO ',
        ),
        (with_other_columns, "is not what this version of poolguard makes. Drop it"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line_a_day(
    conn: psycopg.Connection,
    host: NewHost,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[psycopg.Connection], None],
    said: str,
) -> None:
    """Whichever process of the host asks, and it asks every ten minutes. The connection is as
    before."""
    processes = [host("a"), host("a")]
    spoil(conn)
    with caplog.at_level(logging.WARNING, "poolguard"):
        for _ in range(100):
            for each in processes:
                each.now += MINUTE
                each.ask(conn)
    [line] = caplog.messages
    assert line.startswith(f"poolguard 'default': {ALONE}: ")
    assert said in line
    assert "\n" not in line
    assert sum(len(each.asked) for each in processes) in (10, 11)
    assert conn.execute("SELECT 1").fetchone() == (1,)
    conn.execute("RESET SESSION AUTHORIZATION")


def test_a_table_that_is_locked_is_given_up_soon(
    conn: psycopg.Connection,
    host: NewHost,
    postgres: PrivatePostgres,
    caplog: pytest.LogCaptureFixture,
) -> None:
    new = host("new")
    with postgres.connect() as other, other.transaction():
        other.execute(f"LOCK TABLE {TABLE.quoted}")
        began = time.monotonic()
        assert not new.learn(conn)
        assert time.monotonic() - began < 2  # of 0.25 s
    assert "does not answer in time" in caplog.text
    new.now += exchange.AGAIN * MINUTE
    new.ask(conn)
    assert new.ring.told.read().known


def _is_reset(conn: psycopg.Connection) -> bool:
    """The millisecond that a statement may take holds for this one, too."""
    with suppress(psycopg.errors.QueryCanceled):
        conn.execute("RESET role; RESET ALL")
        return True
    return False


def test_what_the_application_has_set_does_not_matter(
    conn: psycopg.Connection, host: NewHost
) -> None:
    a = host("a", guard="Müßig 'n\\'")
    a.record(settled(a), alone(5, created=3))
    conn.execute("DROP ROLE IF EXISTS passer_by; CREATE ROLE passer_by")
    conn.execute(OWN_SETTINGS)
    a.ask(conn)
    until(lambda: _is_reset(conn))
    found = conn.execute(
        f"SELECT guard, service, extract(epoch FROM minute)::int / 60 FROM {TABLE.quoted}"
    ).fetchall()
    assert found == [("Müßig 'n\\'", "postgres", settled(a))]
    assert a.known(settled(a)) == alone(5, created=3)


def test_behind_a_pooler_of_transactions(
    conn: psycopg.Connection, host: NewHost, start_pgbouncer: StartPgBouncer
) -> None:
    bouncer = start_pgbouncer("transaction")
    a, b = host("a"), host("b")
    a.record(settled(a), alone(5))
    with psycopg.connect(bouncer.conninfo(), autocommit=True) as pooled:
        a.ask(pooled)
        b.ask(pooled)
    assert b.known(settled(b)) == alone(5)


@pytest.mark.usefixtures("basebackup")
def test_a_standby_is_read(host: NewHost, caplog: pytest.LogCaptureFixture) -> None:
    with ExitStack() as stack:
        janitor = stack.enter_context(Janitor())
        primary = stack.enter_context(PrivatePostgres(janitor=janitor))
        there = stack.enter_context(primary.connect())
        there.autocommit = True
        standby = stack.enter_context(Standby(primary, janitor=janitor))
        make_table(there, TABLE)
        a, new = host("a"), host("new")
        a.record(settled(a), alone(5))
        a.ask(there)
        with standby.connect() as here:
            here.autocommit = True
            query = f"SELECT count(*) = 1 FROM {TABLE.quoted}"

            def has_come() -> bool:
                try:
                    return here.execute(query).fetchone() == (True,)
                except psycopg.errors.UndefinedTable:
                    return False

            until(has_come)
            new.record(settled(new) - 1, alone(1))
            for _ in range(3):
                ask_next(new, here)
        assert new.known(settled(a)) == alone(5)
        [line] = caplog.messages
        assert "takes no writes" in line


# -- the rows ----------------------------------------------------------------------------------


def test_guards_and_services_are_told_apart(conn: psycopg.Connection, host: NewHost) -> None:
    one = host("a")
    others = [host("b", guard="other"), host("c", TABLE._replace(service="reports"))]
    one.record(settled(one), alone(5))
    one.ask(conn)
    for each in others:
        each.ask(conn)
        assert each.known(settled(each)) is None


def test_rows_go_after_five_weeks_and_none_is_of_a_time_to_come(
    conn: psycopg.Connection, host: NewHost
) -> None:
    """Also those of guards that are no more. By the server's clock: a host's may be wrong."""
    a = host("a")
    conn.execute(
        f"INSERT INTO {TABLE.quoted} SELECT now() - interval '{KEPT + 1} minutes', 'x', 'y', "
        "1, 1, 1, 1, 1"
    )
    a.now += DAY * MINUTE
    a.record(settled(a), alone(5))
    a.now -= a.now % (HOUR * MINUTE) - LATE
    a.record(settled(a), alone(5))
    a.ask(conn)
    assert rows_of(conn) == []
