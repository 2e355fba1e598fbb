"""The pools in the lifespan, driven by the very code of gunicorn and uvicorn."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any, Protocol

import pytest
from psycopg.conninfo import make_conninfo
from starlette.applications import Starlette
from uvicorn.config import Config
from uvicorn.lifespan.on import LifespanOn

import poolguard
import poolguard.asgi
from poolguard.asgi import App, Message, PoolGuardMiddleware, Receive, Scope, Send
from poolguard.worker import registry

from .server import ASGI
from .test_asgi import run

try:
    from gunicorn.asgi.lifespan import LifespanStartupFailed
except ImportError:  # before gunicorn 27
    LifespanStartupFailed = type("LifespanStartupFailed", (RuntimeError,), {})

AWAY = "host=127.0.0.1 port=1 dbname=shop"
"""Nobody listens there."""


class Lifespan(Protocol):
    """A server's half of the protocol."""

    async def startup(self) -> None: ...

    async def shutdown(self) -> None: ...


class Uvicorn:
    """uvicorn's, which tells by a flag what gunicorn raises."""

    def __init__(self, app: App) -> None:
        self._lifespan = LifespanOn(Config(app, lifespan="auto", log_config=None))

    async def startup(self) -> None:
        await self._lifespan.startup()
        if self._lifespan.should_exit:
            raise LifespanStartupFailed

    async def shutdown(self) -> None:
        await self._lifespan.shutdown()


class OldGunicorn:
    """gunicorn's before 27, which raises the same error for whatever went wrong."""

    def __init__(self, app: App, manager: Callable[[App], Lifespan]) -> None:
        self._app = app
        self._lifespan = manager(self._call)
        self._failed = False

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_see(message: Message) -> None:
            self._failed |= message["type"] == "lifespan.startup.failed"
            await send(message)

        await self._app(scope, receive, send_and_see)

    async def startup(self) -> None:
        try:
            await self._lifespan.startup()
        except RuntimeError as error:
            if self._failed:
                raise LifespanStartupFailed(*error.args) from error
            raise

    async def shutdown(self) -> None:
        await self._lifespan.shutdown()

    @property
    def _task(self) -> Any:
        lifespan: Any = self._lifespan
        return lifespan._task


def gunicorn(app: App) -> Lifespan:
    """gunicorn's own asgi worker's."""
    ASGI.must_exist()
    from gunicorn.asgi import lifespan

    def manager(app: App) -> Lifespan:
        made: Lifespan = lifespan.LifespanManager(app, logging.getLogger("gunicorn.error"))
        return made

    return manager(app) if hasattr(lifespan, "LifespanStartupFailed") else OldGunicorn(app, manager)


every_server = pytest.mark.parametrize("server", [gunicorn, Uvicorn])
Server = Callable[[App], Lifespan]


@pytest.fixture
def guard(dsn: str) -> poolguard.Guard:
    """A guard that the lifespan opens."""
    return poolguard.Guard(dsn, mode="async", budget=3, floor=2)


def said(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """What poolguard and the servers have logged, from that level on."""
    ours = ("poolguard", "gunicorn", "uvicorn")
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= level and record.name.startswith(ours)
    ]


# -- applications ------------------------------------------------------------------------------


async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
    """It has no lifespan, as Django."""
    raise ValueError(f"Django can only handle ASGI/HTTP connections, not {scope['type']}.")


async def ignoring(scope: Scope, receive: Receive, send: Send) -> None:
    """It has none either."""


async def hasty(scope: Scope, receive: Receive, send: Send) -> None:
    """It does not wait for the end."""
    await receive()
    await send({"type": "lifespan.startup.complete"})


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """It does not say that its shutdown is complete."""
    await hasty(scope, receive, send)
    await receive()


async def whole(scope: Scope, receive: Receive, send: Send) -> None:
    """It does what the protocol says."""
    await silent(scope, receive, send)
    await send({"type": "lifespan.shutdown.complete"})


async def poor(scope: Scope, receive: Receive, send: Send) -> None:
    """It fails to shut down, and says so."""
    await silent(scope, receive, send)
    await send({"type": "lifespan.shutdown.failed", "message": "cannot stop"})


# -- whose lifespan it is ----------------------------------------------------------------------


@every_server
@pytest.mark.parametrize(
    "app", [refusing, ignoring, hasty, silent, whole, poor], ids=lambda app: app.__name__
)
def test_the_pools_are_warm_from_startup_to_shutdown(
    app: App, server: Server, guard: poolguard.Guard
) -> None:
    """Whatever lifespan the application has, and the server waits for none that it has not."""

    async def main() -> None:
        lifespan = server(PoolGuardMiddleware(app))
        await asyncio.wait_for(lifespan.startup(), 20)
        assert guard.ready
        assert guard.status()["created"] == {"warmup": 2}
        began = monotonic()
        await asyncio.wait_for(lifespan.shutdown(), 20)
        assert monotonic() - began < 5
        assert not guard.opened

    run(main)


@every_server
def test_the_applications_own_lifespan_has_the_pools_at_hand(
    server: Server, guard: poolguard.Guard
) -> None:
    """They open before its startup, and close after its shutdown."""
    ready: list[bool] = []

    async def query() -> None:
        async with guard.aconnection() as conn:
            await conn.execute("SELECT 1")
        ready.append(guard.ready)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await query()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await query()
        await send({"type": "lifespan.shutdown.complete"})

    async def main() -> None:
        lifespan = server(PoolGuardMiddleware(app))
        await lifespan.startup()
        await lifespan.shutdown()
        assert ready == [True, True]
        assert not guard.opened

    run(main)


@every_server
@pytest.mark.parametrize("raising", [False, True], ids=["returns", "raises"])
def test_a_startup_that_fails_explicitly_stops_the_server(
    raising: bool, server: Server, guard: poolguard.Guard, caplog: pytest.LogCaptureFixture
) -> None:
    """As without us: some applications raise as well once they have said so."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no licence"})
        if raising:
            raise RuntimeError("no licence")

    async def main() -> None:
        with pytest.raises(LifespanStartupFailed):
            await server(PoolGuardMiddleware(app)).startup()
        assert not guard.opened

    run(main)


def test_a_startup_that_raises_reaches_the_server(guard: poolguard.Guard) -> None:
    """As without us. It is no missing lifespan: the application has asked for the message."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise KeyError("no licence")

    async def main() -> None:
        for door in (app, PoolGuardMiddleware(app)):
            with pytest.raises(RuntimeError, match="no licence") as caught:
                await gunicorn(door).startup()
            assert type(caught.value) is RuntimeError
        assert not guard.opened

    run(main)


class Licence(Exception):
    """Something goes wrong at an application's startup."""


async def failing_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    """As a middleware that connects to its cache."""
    raise Licence


async def failing_midway(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    raise Licence


async def failing_by_hand(scope: Scope, receive: Receive, send: Send) -> None:
    """By an error as those that have no lifespan raise."""
    raise ValueError("no licence")


async def exiting(scope: Scope, receive: Receive, send: Send) -> None:
    raise SystemExit(5)


def raised(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The errors whose tracebacks were logged."""
    infos = [record.exc_info for record in caplog.records if record.levelno >= logging.WARNING]
    return [info[0].__name__ for info in infos if info is not None and info[0] is not None]


FAILING = [failing_at_once, failing_midway, failing_by_hand, exiting]


@pytest.mark.parametrize(
    ("mode", "app"),
    [(mode, app) for mode in ("auto", "on") for app in FAILING]
    + [("gunicorn", app) for app in FAILING if app is not exiting],  # it ends the loop there
)
def test_what_the_application_raises_at_its_startup_is_logged_once(
    app: App, mode: Any, guard: poolguard.Guard, caplog: pytest.LogCaptureFixture
) -> None:
    """And the server serves, or does not, as without us."""

    async def outcome(door: App) -> object:
        if mode == "gunicorn":
            with suppress(RuntimeError):
                await gunicorn(door).startup()
            return None
        lifespan = LifespanOn(Config(door, lifespan=mode, log_config=None))
        await lifespan.startup()
        ends = lifespan.should_exit
        await lifespan.shutdown()
        return ends

    async def main() -> None:
        without = await outcome(app)
        caplog.clear()
        assert await outcome(PoolGuardMiddleware(app)) == without
        assert len(raised(caplog)) == 1
        assert mode == "gunicorn" or not guard.opened

    run(main)


async def asserting(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"


async def reading(scope: Scope, receive: Receive, send: Send) -> None:
    _ = scope["path"]


async def implementing_less(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotImplementedError


@pytest.mark.parametrize("app", [refusing, asserting, reading, implementing_less])
@pytest.mark.parametrize("mode", ["auto", "on"])
def test_an_application_without_a_lifespan_is_no_error(
    app: App, mode: Any, guard: poolguard.Guard, caplog: pytest.LogCaptureFixture
) -> None:
    """ASGI has those raise something."""

    async def main() -> None:
        lifespan = LifespanOn(Config(PoolGuardMiddleware(app), lifespan=mode, log_config=None))
        await lifespan.startup()
        assert guard.ready
        assert not lifespan.should_exit
        await lifespan.shutdown()
        assert raised(caplog) == said(caplog) == []

    run(main)


def test_a_lifespan_that_fails_while_the_server_serves_leaves_the_pools(
    guard: poolguard.Guard,
) -> None:
    """The server goes on serving, too."""
    fail = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await hasty(scope, receive, send)
        await fail.wait()
        raise KeyError("a task of it")

    async def main() -> None:
        task: list[asyncio.Task[Any]] = []
        lifespan = gunicorn(_noting(PoolGuardMiddleware(app), task))
        await lifespan.startup()
        fail.set()
        with pytest.raises(KeyError):
            await task[0]
        async with guard.aconnection() as conn:
            await conn.execute("SELECT 1")

    run(main)


def _noting(app: App, tasks: list[asyncio.Task[Any]]) -> App:
    """The task in which the lifespan runs, apart from the server's, to see how it ends."""

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        tasks.append(asyncio.ensure_future(app(scope, receive, send)))
        await asyncio.wait(tasks)

    return noting


# -- as a context manager ----------------------------------------------------------------------


@pytest.mark.parametrize("behind", [False, True], ids=["alone", "behind the middleware"])
def test_starlette_takes_the_lifespan_as_it_is(behind: bool, guard: poolguard.Guard) -> None:
    """Behind the middleware, which opens and closes, it has nothing left to do."""

    async def main() -> None:
        app: App = Starlette(lifespan=poolguard.asgi.lifespan)
        lifespan = gunicorn(PoolGuardMiddleware(app) if behind else app)
        await lifespan.startup()
        assert guard.ready
        await lifespan.shutdown()
        assert not guard.opened

    run(main)


def test_within_a_lifespan_of_ones_own(guard: poolguard.Guard) -> None:
    rows: list[Any] = []

    @asynccontextmanager
    async def own(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with poolguard.asgi.lifespan():
            async with guard.aconnection() as conn:
                rows.append(await (await conn.execute("SELECT 1")).fetchone())
            yield {"rows": rows}

    async def main() -> None:
        lifespan = gunicorn(Starlette(lifespan=own))
        await lifespan.startup()
        assert guard.ready
        await lifespan.shutdown()

    run(main)
    assert rows == [(1,)]


@pytest.mark.parametrize(
    "lifespan_of",
    [
        poolguard.asgi.lifespan,
        lambda guard: poolguard.asgi.lifespan(guard=guard),
        lambda guard: poolguard.asgi.lifespan(Starlette(), guard=guard),
    ],
    ids=["first", "keyword", "partial"],
)
def test_it_opens_the_guard_that_is_given(
    lifespan_of: Any, dsn: str, guard: poolguard.Guard
) -> None:
    other = poolguard.Guard(dsn, name="other", mode="async", budget=2)

    async def main() -> None:
        async with lifespan_of(other):
            assert (guard.opened, other.ready) == (False, True)
        assert not other.opened

    run(main)


def test_a_guard_that_is_open_already_is_left_as_it_is(guard: poolguard.Guard) -> None:
    """Who opened it closes it."""

    async def main() -> None:
        async with guard:
            async with poolguard.asgi.lifespan():
                pass
            assert guard.ready

    run(main)


def test_the_last_of_two_lifespans_closes_what_they_share(
    guard: poolguard.Guard,
) -> None:
    """As where fixtures of a session and of a test run the lifespan of one application."""
    app = PoolGuardMiddleware(Starlette())

    async def main() -> None:
        first, second = Uvicorn(app), Uvicorn(app)
        await first.startup()
        await second.startup()
        await first.shutdown()
        async with guard.aconnection() as conn:
            await conn.execute("SELECT 1")
        await second.shutdown()
        assert not guard.opened
        async with poolguard.asgi.lifespan():  # one after the other
            assert guard.ready

    run(main)


@every_server
@pytest.mark.parametrize("how", ["keyword", "variable"])
def test_a_sync_guard_is_opened_where_no_hook_has(
    how: str, server: Server, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Endpoints that run in threads use it."""
    monkeypatch.setenv("DATABASE_URL", dsn)
    monkeypatch.setenv("POOLGUARD_BUDGET", "3")
    if how == "variable":
        monkeypatch.setenv("POOLGUARD_MODE", "sync")
    else:
        poolguard.Guard(mode="sync")

    def endpoint() -> None:
        with poolguard.connection() as conn:
            conn.execute("SELECT 1")

    async def main() -> None:
        lifespan = server(PoolGuardMiddleware(ignoring))
        await lifespan.startup()
        assert poolguard.guard().ready
        await asyncio.to_thread(endpoint)
        await lifespan.shutdown()
        assert not poolguard.guard().opened

    run(main)


def test_the_default_guard_follows_the_environment_of_each_lifespan(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests that set DATABASE_URL for each application work on that database."""
    monkeypatch.setenv("POOLGUARD_BUDGET", "3")
    seen: list[str] = []

    async def main() -> None:
        for database in ("postgres", "template1"):
            monkeypatch.setenv("DATABASE_URL", make_conninfo(dsn, dbname=database))
            async with poolguard.asgi.lifespan(), poolguard.aconnection() as conn:
                seen.append(conn.info.dbname)
            await poolguard.guard().aclose()

    run(main)
    assert seen == ["postgres", "template1"]


def test_an_error_within_closes_the_pools_and_passes(guard: poolguard.Guard) -> None:
    async def main() -> None:
        with pytest.raises(KeyError):
            async with poolguard.asgi.lifespan():
                raise KeyError
        assert not guard.opened

    run(main)


def test_a_startup_that_the_server_cuts_short_leaves_the_pools_and_is_said(
    guard: poolguard.Guard, caplog: pytest.LogCaptureFixture
) -> None:
    """gunicorn's asgi worker serves without a lifespan then, and says so at debug only."""

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        started.set()
        await asyncio.Event().wait()

    async def main() -> None:
        lifespan: Any = gunicorn(PoolGuardMiddleware(slow))
        starting = asyncio.create_task(lifespan.startup())
        await asyncio.wait_for(started.wait(), 20)
        lifespan._task.cancel()  # what it does after 30 s
        with pytest.raises(asyncio.CancelledError):
            await lifespan._task
        starting.cancel()
        assert guard.opened
        await guard.aclose()

    started = asyncio.Event()
    run(main)
    assert "may serve without: the pools stay open" in caplog.text


# -- a database that is away -------------------------------------------------------------------


@every_server
def test_a_database_that_is_away_is_said_once_and_served_without(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Several guards wait at the same time."""
    for name in ("one", "two"):
        poolguard.Guard(AWAY, name=name, mode="async", budget=2, warmup_timeout=1)

    async def main() -> None:
        began = monotonic()
        app = Starlette(lifespan=poolguard.asgi.lifespan)
        lifespan = server(PoolGuardMiddleware(app))
        await lifespan.startup()
        assert 1 <= monotonic() - began < 2
        await lifespan.shutdown()

    run(main)
    one, two = said(caplog)
    assert one.startswith("poolguard 'one' is not warm after 1 s")
    assert two.startswith("poolguard 'two' is not warm after 1 s")


@every_server
def test_who_may_not_serve_cold_fails_explicitly_and_says_why_once(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception would make some servers serve without a lifespan."""
    poolguard.Guard(AWAY, mode="async", budget=2, warmup_timeout=0.2, on_warmup_failure="exit")

    async def main() -> None:
        lifespan = server(PoolGuardMiddleware(whole))
        with pytest.raises(LifespanStartupFailed):
            await lifespan.startup()
        assert not registry.guards()[0].opened

    run(main)
    lines = [line for line in said(caplog) if "is not warm" in line]
    assert len(lines) == (server is Uvicorn), "gunicorn's worker logs what it is told itself"


@every_server
def test_settings_that_cannot_work_fail_explicitly(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without gunicorn's hooks nobody has looked at them before."""
    monkeypatch.setenv("POOLGUARD_FLOOR", "many")
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:s3cret@localhost/shop")

    async def main() -> None:
        with pytest.raises(LifespanStartupFailed) as caught:
            await server(PoolGuardMiddleware(whole)).startup()
        if server is gunicorn:
            assert "poolguard variable POOLGUARD_FLOOR" in str(caught.value)

    run(main)
    assert "s3cret" not in caplog.text
    assert "Traceback" not in caplog.text


def test_sigterm_ends_the_wait_and_reaches_the_server(caplog: pytest.LogCaptureFixture) -> None:
    """The handler that was there is called, and is there again afterwards."""
    poolguard.Guard(AWAY, mode="async", budget=2, warmup_timeout=60)
    told: list[int] = []

    async def main() -> None:
        lifespan = gunicorn(PoolGuardMiddleware(whole))
        loop = asyncio.get_running_loop()
        loop.call_later(0.1, signal.raise_signal, signal.SIGTERM)
        await asyncio.wait_for(lifespan.startup(), 20)
        await lifespan.shutdown()

    def note(number: int, frame: Any) -> None:
        told.append(number)

    before = signal.signal(signal.SIGTERM, note)
    try:
        run(main)
        assert told == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is note
    finally:
        signal.signal(signal.SIGTERM, before)
    assert said(caplog) == [], "it was not late, it was stopped"
