"""Which engines have a guard, which one, and that the others are as without the plugin."""

from __future__ import annotations

import gc
import logging
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, NullPool, QueuePool, create_engine, event, exc, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

import poolguard
from poolguard import Guard, SettingsError
from poolguard.runtime.lookup import guards
from poolguard.sqlalchemy import AsyncGuardPool, GuardPool
from poolguard.sqlalchemy.engines import binding_of
from poolguard.worker import registry
from poolguard.worker.context import WorkerContext

from ...support import until
from .conftest import Make

PLUGIN: dict[str, Any] = {"plugins": ["poolguard"]}
NOWHERE = "postgresql+psycopg://user:hunter2@127.0.0.1:1/nowhere"


def names() -> list[str]:
    return [each.name for each in guards()]


# -- outside of gunicorn -----------------------------------------------------------------------


def test_elsewhere_an_engine_has_the_pool_that_it_was_given(url: URL) -> None:
    """Its own class, its own arguments, and no guard that anything would open."""
    engine = create_engine(url, pool_size=3, max_overflow=1, pool_pre_ping=True, **PLUGIN)
    assert type(engine.pool) is QueuePool
    assert engine.pool.size() == 3
    assert engine.pool._pre_ping
    with engine.connect() as conn:
        assert conn.scalar(text("SELECT 1")) == 1
    aio = create_async_engine(url.set(drivername="postgresql+psycopg_async"), **PLUGIN)
    assert type(aio.pool) is AsyncAdaptedQueuePool
    assert names() == []
    engine.dispose()


def test_where_its_guard_is_closed_again_it_has_its_own_pool_again(url: URL) -> None:
    """With its listeners, whenever they were added."""
    engine = create_engine(url, pool_size=1, max_overflow=0, **PLUGIN)
    seen: list[str] = []
    event.listen(engine, "checkout", lambda *_: seen.append("before"))
    own = engine.pool
    with poolguard.sqlalchemy.guard(engine) as guard:
        assert isinstance(engine.pool, GuardPool)
        event.listen(engine, "checkout", lambda *_: seen.append("meanwhile"))
        engine.connect().close()
        assert guard.status()["idle"] > 0
        assert own.checkedin() == 0  # type: ignore[attr-defined]
    engine.connect().close()
    assert own.checkedin() == 1  # type: ignore[attr-defined]
    assert engine.pool.status() == own.status()
    assert seen == ["before", "meanwhile"] * 2
    engine.dispose()
    assert engine.pool.checkedin() == 0
    engine.connect().close()
    event.listen(engine, "checkout", lambda *_: seen.append("after"))
    engine.connect().close()
    assert seen == [*["before", "meanwhile"] * 4, "after"]
    engine.dispose()


@pytest.mark.usefixtures("worker")
def test_another_backend_and_another_way_to_connect_are_left_alone(url: URL) -> None:
    """Alembic's NullPool, a creator of the user's, sqlite."""
    lite = create_engine("sqlite://", poolguard={"floor": 4}, **PLUGIN)
    with lite.connect() as conn:
        assert conn.scalar(text("SELECT 1")) == 1
    assert type(create_engine(url, poolclass=NullPool, **PLUGIN).pool) is NullPool
    conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
    own = create_engine(url, creator=lambda: psycopg.connect(conninfo), **PLUGIN)
    assert type(own.pool) is QueuePool
    pool = own.pool.recreate()
    assert create_engine(url, pool=pool, **PLUGIN).pool is pool
    assert names() == []
    lite.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg2"])
def test_another_driver_is_one_clear_error(driver: str) -> None:
    """It says what to write, and shows no password."""
    url = NOWHERE.replace("+psycopg", f"+{driver}")
    ours = {"asyncpg": "psycopg_async", "psycopg2": "psycopg"}[driver]
    with pytest.raises(exc.ArgumentError, match=rf"write postgresql\+{ours}:// in") as raised:
        create_engine(url, **PLUGIN)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"flor": 4}, "keyword flor"),
        ({"floor": 0}, "keyword floor=0"),
        ({"mode": "sync"}, "the engine says that itself"),
        ({"dsn": "host=x"}, "the engine says that itself"),
        ("floor=4", "it takes a dict"),
    ],
)
def test_wrong_settings_are_refused_in_every_process(given: Any, said: str) -> None:
    """Before anybody deploys them."""
    with pytest.raises(SettingsError, match=said):
        create_engine(NOWHERE, poolguard=given, **PLUGIN)


def test_an_engine_without_the_plugin_has_no_guard() -> None:
    with pytest.raises(SettingsError, match=r"plugins=\['poolguard'\]") as raised:
        poolguard.sqlalchemy.guard(create_engine(NOWHERE))
    assert "hunter2" not in str(raised.value)


def test_the_url_may_name_the_plugin_and_both_may(url: URL) -> None:
    engine = create_engine(url.update_query_dict({"plugin": "poolguard"}), **PLUGIN)
    assert "plugin" not in engine.url.query
    with poolguard.sqlalchemy.guard(engine):
        assert poolguard.sqlalchemy.guard(engine.execution_options(x=1)).opened
        assert engine.connect().scalar(text("SELECT 1")) == 1


@pytest.mark.usefixtures("worker")
def test_an_engine_that_names_it_twice_has_one_guard(url: URL) -> None:
    engine = create_engine(url.update_query_dict({"plugin": "poolguard"}), **PLUGIN)
    assert guards() == [poolguard.sqlalchemy.guard(engine)]
    poolguard.forget(guards()[0])


# -- in workers --------------------------------------------------------------------------------


@pytest.mark.usefixtures("worker")
def test_in_a_worker_it_is_pooled_and_says_what_it_leaves_to_the_guard(
    url: URL, caplog: pytest.LogCaptureFixture
) -> None:
    """One line, whose names are the user's; the arguments are no error."""
    with caplog.at_level(logging.INFO, "poolguard"):
        engine = create_engine(url, pool_size=1, max_overflow=0, pool_recycle=300, **PLUGIN)
    [said] = [each.message for each in caplog.records if "are left to the guard" in each.message]
    assert "pool_size, max_overflow, pool_recycle" in said
    assert isinstance(engine.pool, GuardPool)
    with engine.connect(), engine.connect() as conn:  # of a pool of one
        assert conn.scalar(text("SELECT 1")) == 1
    poolguard.forget(poolguard.sqlalchemy.guard(engine))


@pytest.mark.usefixtures("worker")
def test_in_a_worker_nothing_is_opened_beside_the_guard(url: URL) -> None:
    """Its connections are all within the budget: a guard that is closed raises."""
    engine = create_engine(url, **PLUGIN)
    engine.connect().close()
    poolguard.sqlalchemy.guard(engine).close()
    with pytest.raises(exc.OperationalError, match="already closed"):
        engine.connect()


@pytest.mark.usefixtures("worker")
def test_each_engine_has_a_guard_of_its_own_name(url: URL, admin: psycopg.Connection) -> None:
    """The first is the default one; the others are called after their database."""
    small = {"poolguard": {"floor": 1, "budget": 10}}
    engines = [create_engine(url, **PLUGIN, **small) for _ in range(3)]
    engines.append(create_engine(url, **PLUGIN, poolguard={**small["poolguard"], "name": "mine"}))
    assert names() == ["default", "postgres", "postgres-2", "mine"]
    assert poolguard.guard("mine") is poolguard.sqlalchemy.guard(engines[-1])
    for each in guards():
        poolguard.forget(each)


@pytest.mark.usefixtures("worker")
def test_the_default_guard_is_of_the_environments_database(
    url: URL, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine for another one does not take its name: ``poolguard.connection()`` means that."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://somewhere/else")
    engine = create_engine(url, poolguard={"floor": 1, "budget": 5}, **PLUGIN)
    assert poolguard.sqlalchemy.guard(engine).name == "postgres"
    poolguard.forget(poolguard.sqlalchemy.guard(engine))
    monkeypatch.setenv("DATABASE_URL", dsn)
    engine = create_engine(url, poolguard={"floor": 1, "budget": 5}, **PLUGIN)
    assert poolguard.sqlalchemy.guard(engine).name == "default"
    poolguard.forget(poolguard.sqlalchemy.guard(engine))


@pytest.mark.usefixtures("worker")
def test_it_goes_on_with_the_guard_that_the_hooks_have_opened(
    url: URL, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its warm connections are dressed as the engine wants them, and not opened anew."""
    monkeypatch.setenv("DATABASE_URL", dsn)
    monkeypatch.setenv("POOLGUARD_FLOOR", "2")
    before = poolguard.guard()
    before.open(10)
    with before.connection() as warm:
        pid = warm.info.backend_pid
    engine = create_engine(
        url,
        connect_args={"prepare_threshold": 2, "client_encoding": "latin1", "autocommit": True},
        json_deserializer=lambda text: ("mine", text),
        **PLUGIN,
    )
    assert poolguard.sqlalchemy.guard(engine) is before
    pids = set()
    for _ in range(2):
        raw = engine.raw_connection()
        conn = raw.driver_connection
        assert conn is not None
        pids.add(conn.info.backend_pid)
        assert (conn.prepare_threshold, conn.autocommit) == (2, True)
        assert conn.info.encoding == "iso8859-1"
        assert conn.execute("SELECT '[1]'::json").fetchone() == (("mine", b"[1]"),)
        raw.close()
    assert pid in pids
    poolguard.forget(before)


@pytest.mark.usefixtures("worker")
def test_an_engine_that_is_made_again_has_the_guard_of_the_one_before(url: URL) -> None:
    """As where each request makes one: no guard is left for each. The connections are new, and the
    guard of an engine that was another one is closed."""
    settings = {"floor": 1, "budget": 5}
    for _ in range(3):
        engine = create_engine(url, poolguard=settings, **PLUGIN)
        with engine.connect() as conn:
            pid = conn.scalar(text("SELECT pg_backend_pid()"))
        guard = poolguard.sqlalchemy.guard(engine)
        del engine, conn
        gc.collect()
    assert guards() == [guard]
    again = create_engine(url, poolguard=settings, isolation_level="AUTOCOMMIT", **PLUGIN)
    with again.connect() as conn:  # what the other has set of a connection is not to be known
        assert conn.scalar(text("SELECT pg_backend_pid()")) != pid
    del again, conn
    gc.collect()
    other = create_engine(url, poolguard={"floor": 1, "budget": 6}, **PLUGIN)
    assert guards() == [poolguard.sqlalchemy.guard(other)]
    assert not guard.opened
    poolguard.forget(guards()[0])


def test_an_engine_of_the_master_has_its_guard_in_each_worker(url: URL) -> None:
    """It has its own pool before the fork, and one that is collected by then leaves nothing."""
    registry.become(WorkerContext(role="master"))
    engine, other = (create_engine(url, **PLUGIN) for _ in range(2))
    assert type(engine.pool) is QueuePool
    del other
    gc.collect()
    assert guards() == []
    registry.become(WorkerContext(role="worker"))  # as a forked child does
    assert guards() == [poolguard.sqlalchemy.guard(engine)]
    assert isinstance(engine.pool, GuardPool)
    assert not guards()[0].opened


@pytest.mark.usefixtures("worker")
def test_an_async_engines_guard_waits_for_the_lifespan(url: URL) -> None:
    engine = create_async_engine(url.set(drivername="postgresql+psycopg_async"), **PLUGIN)
    assert isinstance(engine.pool, AsyncGuardPool)
    [guard] = guards()
    assert (guard.mode, guard.opened) == ("async", False)


@pytest.mark.usefixtures("worker")
def test_wrong_settings_of_a_worker_are_a_complaint_and_no_traceback(url: URL) -> None:
    """The hooks refuse the worker with one line."""
    Guard("host=elsewhere", name="taken", mode="sync").open()
    create_engine(url, poolguard={"name": "taken"}, **PLUGIN)
    assert "a guard named 'taken' is open" in str(registry.complaint())
    poolguard.forget(poolguard.guard("taken"))


# -- how it connects ---------------------------------------------------------------------------


def test_listeners_that_know_the_password_are_asked_at_each_connect(url: URL, pooled: Make) -> None:
    """SQLAlchemy's recipe for tokens that expire."""
    engine = create_engine(url.set(password="expired"), **PLUGIN, poolguard={"floor": 1})
    asked = []

    @event.listens_for(engine, "do_connect")
    def token(dialect: Any, record: Any, arguments: Any, keywords: dict[str, Any]) -> None:
        asked.append(keywords["password"])
        keywords["password"] = url.password

    with poolguard.sqlalchemy.guard(engine), engine.connect() as conn:
        assert conn.scalar(text("SELECT 1")) == 1
    assert asked[0] == "expired"


@pytest.mark.parametrize("listens", [False, True])
def test_the_role_whose_limit_binds_is_known_unless_a_listener_may_change_it(
    url: URL, listens: bool
) -> None:
    """Else what engines and other guards of one role hold would not be counted together."""
    engine = create_engine(url, **PLUGIN, poolguard={"floor": 1, "budget": 4})
    if listens:
        event.listen(engine, "do_connect", lambda *_: None)
    raw = Guard(
        url.set(drivername="postgresql").render_as_string(hide_password=False),
        name="raw",
        mode="sync",
        floor=1,
        budget=4,
    )
    with poolguard.sqlalchemy.guard(engine) as guard, raw:
        ours, theirs = (each._runtime.ledger.scope for each in (guard, raw))  # type: ignore[union-attr]
        assert theirs.role
        assert ours == (theirs._replace(role=0) if listens else theirs)


def test_a_listener_that_connects_itself_is_refused(url: URL) -> None:
    """What it makes would be beyond the budget; the error says what to do."""
    engine = create_engine(url, **PLUGIN, poolguard={"floor": 1, "warmup_timeout": 0.2})

    @event.listens_for(engine, "do_connect")
    def own(dialect: Any, record: Any, arguments: Any, keywords: dict[str, Any]) -> Any:
        return object()

    guard = poolguard.sqlalchemy.guard(engine)
    guard.open()
    try:
        until(lambda: "do_connect listener" in str(guard.status()["last_error"]))
    finally:
        guard.close()


def test_an_engine_that_echoes_its_pool_says_what_it_lends(
    pooled: Make, caplog: pytest.LogCaptureFixture
) -> None:
    engine = pooled(echo_pool="debug")
    engine.connect().close()
    said = [record.getMessage() for record in caplog.records]
    assert any("checked out from pool" in line for line in said)
    assert any("being returned to pool" in line for line in said)


def test_what_an_engine_wants_of_its_guard_shows_no_password(url: URL, pooled: Make) -> None:
    engine = pooled()
    shown = repr(binding_of(engine))
    assert "sync" in shown
    assert str(url.password) not in shown
