"""What a pooled engine does as SQLAlchemy's users expect, and what it costs on the wire."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import ClientCursor
from sqlalchemy import event, exc, text

import poolguard
from poolguard.sqlalchemy import GuardTimeout
from poolguard.worker import overload
from tests.support import until

from .conftest import Make, Wire

PID = text("SELECT pg_backend_pid()")
EVENTS = (
    *("first_connect", "connect", "checkout", "checkin", "reset", "invalidate"),
    *("soft_invalidate", "detach", "close", "close_detached"),
)


def heard(engine: Any) -> list[str]:
    """The events of the engine's pool, as they come from now on."""
    told: list[str] = []
    for name in EVENTS:
        event.listen(engine, name, lambda *_, name=name: told.append(name))
    return told


def status(engine: Any) -> dict[str, Any]:
    return poolguard.sqlalchemy.guard(engine).status()


# -- records -----------------------------------------------------------------------------------


def test_a_connection_is_told_of_once_and_keeps_its_info(pooled: Make) -> None:
    """Trap 1: ``connect`` at each checkout adds a handler of notices each time."""
    engine = pooled(settings={"floor": 1, "max_size": 1})
    told = heard(engine)
    for n in range(3):
        with engine.connect() as conn:
            assert conn.info.setdefault("first", n) == 0
            assert conn.connection.driver_connection is not None
            assert len(conn.connection.driver_connection._notice_handlers) == 1
    assert Counter(told)["connect"] == Counter(told)["first_connect"] == 1
    assert told[2:] == ["checkout", "reset", "checkin"] * 3


def test_an_invalidated_connection_is_closed_and_no_other(pooled: Make) -> None:
    """Trap 1 and 3: it is not served again, its slot is free, and the others stay."""
    engine = pooled()
    told = heard(engine)
    other = engine.connect()
    stays = other.scalar(PID)
    with engine.connect() as conn:
        bad = conn.scalar(PID)
        conn.invalidate()
        conn.rollback()
        assert conn.scalar(PID) != bad  # SQLAlchemy takes another one
    other.close()
    until(lambda: status(engine)["used"] == 0)
    pids = set()
    for _ in range(4):
        with engine.connect() as conn:
            pids.add(conn.scalar(PID))
    assert bad not in pids
    assert stays in pids
    assert Counter(told)["invalidate"] == Counter(told)["close"] == 1


def test_a_softly_invalidated_one_is_closed_as_it_is_returned(pooled: Make) -> None:
    engine = pooled(settings={"floor": 1, "max_size": 1})
    told = heard(engine)
    raw = engine.raw_connection()
    assert raw.driver_connection is not None
    before = raw.driver_connection.info.backend_pid
    raw.info["mine"] = True
    raw.invalidate(soft=True)
    assert not raw.driver_connection.closed
    raw.close()
    with engine.connect() as conn:
        assert conn.scalar(PID) != before
        assert "mine" not in conn.info
    assert Counter(told)["soft_invalidate"] == Counter(told)["close"] == 1


def test_a_detached_one_keeps_its_slot_until_it_is_closed(pooled: Make) -> None:
    """It is within the budget as long as it is open."""
    engine = pooled(settings={"floor": 1, "max_size": 1})
    told = heard(engine)
    raw = engine.raw_connection()
    raw.info["mine"] = True
    kept = raw.driver_connection  # which somebody may go on referring to
    raw.detach()
    assert raw.info["mine"]
    with pytest.raises(GuardTimeout):
        engine.connect()
    raw.cursor().execute("SELECT 1")
    raw.close()
    with engine.connect() as conn:
        assert "mine" not in conn.info
    assert kept is not None
    assert kept.closed
    assert Counter(told)["detach"] == Counter(told)["close_detached"] == 1


def test_a_listener_that_finds_a_connection_dead_is_given_another(pooled: Make) -> None:
    """The recipe of a ping at checkout; twice in vain it is an error, and nothing is lost."""
    engine = pooled()
    refused: list[int] = []
    wanted = 1

    @event.listens_for(engine, "checkout")
    def ping(connection: Any, record: Any, proxy: Any) -> None:
        if len(refused) < wanted:
            refused.append(connection.info.backend_pid)
            raise exc.DisconnectionError("of no use")

    with engine.connect() as conn:
        assert conn.scalar(PID) not in refused
    wanted = 3
    with pytest.raises(exc.InvalidRequestError, match="connection is closed"):
        engine.connect()
    until(lambda: status(engine)["used"] == 0)


def test_what_a_listener_raises_loses_no_connection(pooled: Make) -> None:
    engine = pooled(settings={"floor": 1, "max_size": 1})
    fails = {"checkout", "connect"}

    @event.listens_for(engine, "checkout")
    def checkout(*_: Any) -> None:
        if "checkout" in fails:
            raise KeyError("at checkout")

    @event.listens_for(engine, "connect")
    def connect(*_: Any) -> None:
        if "connect" in fails:
            raise KeyError("at connect")

    for place in ("connect", "checkout"):
        for _ in range(3):
            with pytest.raises(KeyError, match=place):
                engine.connect()
            gc.collect()
        fails.remove(place)
    engine.connect().close()


def test_what_a_connect_listener_sets_stays(pooled: Make) -> None:
    """Though it left the transaction open in which it did."""
    engine = pooled(settings={"floor": 1, "max_size": 1})

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        connection.cursor().execute("SET work_mem = '5MB'")

    for _ in range(2):
        with engine.connect() as conn:
            assert conn.scalar(text("SHOW work_mem")) == "5MB"


def test_no_other_connection_is_recycled_with_a_dead_one(
    pooled: Make, admin: psycopg.Connection
) -> None:
    """Trap 3: the guard sees by itself which connections have ended."""
    engine = pooled(settings={"floor": 2, "max_size": 2, "acquire_timeout": 10})
    with engine.connect() as one, engine.connect() as two:
        stays, ends = one.scalar(PID), two.scalar(PID)
        admin.execute("SELECT pg_terminate_backend(%s)", [ends])
        with pytest.raises(exc.OperationalError) as raised:
            two.execute(PID)
        assert raised.value.connection_invalidated
        two.rollback()
        assert two.scalar(PID) != ends
        one.rollback()
        assert one.scalar(PID) == stays
    with engine.connect() as conn, engine.connect() as other:  # all that there may be
        assert stays in (conn.scalar(PID), other.scalar(PID))


def test_an_error_that_was_handled_is_known_when_the_connection_comes_back(
    pooled: Make, admin: psycopg.Connection
) -> None:
    """Trap 16: nothing is raised any more then. What a read-only server has said has the guard ask;
    this one takes writes, so the connection stays."""
    admin.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
    admin.commit()
    engine = pooled(settings={"floor": 1, "max_size": 1})
    with engine.connect() as conn:
        pid = conn.scalar(text("SELECT pg_backend_pid()"))
        conn.rollback()
        entry = conn.connection.driver_connection._poolguard_entry  # type: ignore[union-attr]
        conn.execute(text("SET TRANSACTION READ ONLY"))
        with pytest.raises(exc.DBAPIError, match="read-only"):
            conn.execute(text("INSERT INTO kept VALUES (1)"))
        assert entry.verdict == "read-only"
    assert entry.verdict is None
    with engine.connect() as conn:
        assert conn.scalar(PID) == pid
    admin.execute("DROP TABLE kept")
    admin.commit()


# -- on the wire -------------------------------------------------------------------------------


def test_nothing_is_rolled_back_twice_or_where_nothing_was_begun(
    pooled: Make, tmp_path: Path
) -> None:
    """Trap 5."""
    engine = pooled(settings={"floor": 1, "max_size": 1})
    raw = engine.raw_connection()
    conn = raw.driver_connection
    raw.close()

    def sent(what: Any) -> list[str]:
        with Wire(conn, tmp_path) as said:
            what()
            return [line.split('"')[1] for line in said() if line.split('"')[1]]

    def connected() -> None:
        with engine.connect():
            pass

    def queried() -> None:
        with engine.connect() as conn:
            conn.execute(text("SELECT 1"))

    def committed() -> None:
        with engine.begin() as conn:
            conn.execute(text("SELECT 1"))

    def left_raw() -> None:
        raw = engine.raw_connection()
        raw.cursor().execute("SELECT 1")
        raw.close()

    assert sent(connected) == []
    assert sent(queried) == ["BEGIN", "SELECT 1", "ROLLBACK"]
    assert sent(committed) == ["BEGIN", "SELECT 1", "COMMIT"]
    assert sent(left_raw) == ["BEGIN", "SELECT 1", "ROLLBACK"]


def test_a_warm_connection_asks_nothing_of_the_dialects(pooled: Make, tmp_path: Path) -> None:
    """Trap 2: what the worker does before it serves, the first request need not."""
    engine = pooled(settings={"floor": 1, "max_size": 1})
    guard = poolguard.sqlalchemy.guard(engine)
    [job] = guard.when_warm
    job()
    with guard.connection() as conn, Wire(conn, tmp_path) as said:
        guard.pool.putconn(conn)
        with engine.connect() as mine:
            mine.execute(text("SELECT 1"))
        assert len(said()) == 3
        guard.pool.getconn()


def test_all_idle_connections_meet_the_listeners_before_the_worker_serves(pooled: Make) -> None:
    engine = pooled(settings={"floor": 3}, json_deserializer=lambda text: ("mine", text))
    told = heard(engine)
    poolguard.sqlalchemy.guard(engine).when_warm[0]()
    assert told.count("connect") == 3
    assert status(engine)["idle"] == 3  # no more were opened for it
    for _ in range(3):
        raw = engine.raw_connection()
        assert raw.cursor().execute("SELECT '[1]'::json").fetchone() == (("mine", b"[1]"),)
        raw.close()
    assert told.count("connect") == 3


def test_all_of_them_know_the_types_that_the_dialect_has_asked_for(
    pooled: Make, admin: psycopg.Connection
) -> None:
    """It asks over the first connection, when the others are open already."""
    query = "SELECT FROM pg_available_extensions WHERE name = 'hstore'"
    if not admin.execute(query).fetchall():
        pytest.skip("this PostgreSQL comes without contrib's extensions")
    admin.execute("CREATE EXTENSION IF NOT EXISTS hstore")
    admin.commit()
    engine = pooled(settings={"floor": 3})
    for _ in range(3):
        raw = engine.raw_connection()
        assert raw.cursor().execute("SELECT 'a=>1'::hstore").fetchone() == ({"a": "1"},)
        raw.close()
    admin.execute("DROP EXTENSION hstore")
    admin.commit()


# -- transactions ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["rollback", "commit", None])
def test_a_reset_on_return_is_what_was_asked_for(
    pooled: Make, admin: psycopg.Connection, how: str | None
) -> None:
    """With None the guard itself rolls back: it lends no open transaction."""
    table = f"reset_{how}".lower()
    admin.execute(f"CREATE TABLE IF NOT EXISTS {table} (n int)")
    admin.commit()
    engine = pooled(pool_reset_on_return=how, settings={"floor": 1, "max_size": 1})
    raw = engine.raw_connection()
    raw.cursor().execute(f"INSERT INTO {table} VALUES (1)")
    raw.close()
    with engine.connect() as conn:
        assert conn.scalar(text(f"SELECT count(*) FROM {table}")) == (how == "commit")
    admin.execute(f"DROP TABLE {table}")
    admin.commit()


def test_what_is_set_for_one_checkout_ends_with_it(pooled: Make) -> None:
    """Isolation levels, read-only, deferrable, autocommit."""
    engine = pooled(settings={"floor": 1, "max_size": 1})
    options: dict[str, Any] = {
        "isolation_level": "SERIALIZABLE",
        "postgresql_readonly": True,
        "postgresql_deferrable": True,
    }
    shown = text(
        "SELECT current_setting('transaction_isolation'), "
        "current_setting('transaction_read_only'), current_setting('transaction_deferrable')"
    )
    with engine.connect().execution_options(**options) as conn:
        assert tuple(conn.execute(shown).one()) == ("serializable", "on", "on")
    with engine.connect() as conn:
        assert tuple(conn.execute(shown).one()) == ("read committed", "off", "off")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        assert conn.connection.driver_connection is not None
        assert conn.connection.driver_connection.autocommit
    with engine.connect() as conn:
        assert conn.connection.driver_connection is not None
        assert not conn.connection.driver_connection.autocommit
        assert conn.execute(shown).one()[0] == "read committed"


def test_an_engines_own_isolation_level_stays(pooled: Make) -> None:
    engine = pooled(isolation_level="REPEATABLE READ", settings={"floor": 1, "max_size": 1})
    for level in ("SERIALIZABLE", None, None):
        options = {"isolation_level": level} if level else {}
        with engine.connect().execution_options(**options) as conn:
            said = conn.scalar(text("SHOW transaction_isolation"))
            assert said == (level or "REPEATABLE READ").lower()


def test_arguments_of_connects_arrive(pooled: Make) -> None:
    engine = pooled(
        connect_args={
            "cursor_factory": ClientCursor,
            "application_name": "mine",
            "prepare_threshold": None,
        },
        settings={"floor": 1},
    )
    raw = engine.raw_connection()
    cursor: Any = raw.cursor()
    cursor.execute("SELECT current_setting('application_name') AS name")
    assert cursor.fetchone() == ("mine",)
    assert isinstance(cursor, ClientCursor)
    assert raw.driver_connection is not None
    assert raw.driver_connection.prepare_threshold is None
    raw.close()


# -- what is lost ------------------------------------------------------------------------------


def test_a_checkout_that_is_collected_is_returned(pooled: Make) -> None:
    """As SQLAlchemy does: rolled back, and given to the next."""
    engine = pooled(settings={"floor": 1, "max_size": 1})
    conn = engine.connect()
    pid = conn.scalar(PID)
    del conn
    gc.collect()
    with engine.connect() as conn:
        assert conn.scalar(PID) == pid


def test_one_that_is_collected_in_the_midst_of_the_pool_is_returned_later(pooled: Make) -> None:
    """A collection runs at any time, also where the pool's lock is held: nothing may be given back
    then, and nothing is lost."""
    engine = pooled(settings={"floor": 1, "max_size": 1})
    conn = engine.connect()
    pid = conn.scalar(PID)
    guard = poolguard.sqlalchemy.guard(engine)
    with guard.pool._mutex:
        del conn
        gc.collect()
        assert guard.pool.counts().lent == 1
    with engine.connect() as conn:
        assert conn.scalar(PID) == pid


def test_many_threads_share_what_there_is(pooled: Make) -> None:
    engine = pooled(settings={"floor": 2, "max_size": 3, "acquire_timeout": 20})
    told = heard(engine)
    used: Counter[int] = Counter()
    lock = threading.Lock()

    def work() -> None:
        for n in range(20):
            with engine.connect() as conn:
                pid = conn.scalar(PID)
                with lock:
                    used[pid] += 1
                    assert used[pid] == 1, "one connection was lent twice"
                if n == 10:
                    conn.invalidate()
                with lock:
                    used[pid] -= 1

    errors: list[BaseException] = []

    def noted() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the test's to judge
            errors.append(error)

    threads = [threading.Thread(target=noted) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    until(lambda: status(engine)["used"] == 0)
    assert told.count("checkout") == told.count("checkin") == 120


# -- where there is none -----------------------------------------------------------------------


def test_an_exhausted_pool_raises_what_both_kinds_of_users_expect(pooled: Make) -> None:
    """Those who know SQLAlchemy's pool, and those who see a server that is away; the middleware
    finds the pool's own error in it."""
    engine = pooled(
        settings={"floor": 1, "max_size": 1, "acquire_timeout": 0.05, "check_timeout": 0.05}
    )
    with engine.connect():
        for expected in (exc.TimeoutError, exc.OperationalError, GuardTimeout):
            with pytest.raises(expected, match="couldn't get a connection") as raised:
                engine.connect()
        assert overload.caused(raised.value) is raised.value.__cause__
        assert not raised.value.connection_invalidated  # type: ignore[attr-defined]
    engine.connect().close()


def test_it_says_how_many_there_are(pooled: Make) -> None:
    """Trap 4: templates call ``dispose()``, and ask all of these."""
    engine = pooled(settings={"floor": 2, "max_size": 3})
    pool: Any = engine.pool
    with engine.connect() as conn:
        pid = conn.scalar(PID)
        assert (pool.size(), pool.checkedout(), pool.overflow()) == (3, 1, 0)
        assert pool.checkedin() >= 1
        assert "1 in use of at most 3" in pool.status()
    engine.dispose()
    engine.dispose(close=False)
    assert engine.pool is pool
    pids = set()
    for _ in range(3):
        with engine.connect() as conn:
            pids.add(conn.scalar(PID))
    assert pid in pids
