"""The ASGI middleware changes nothing but the span: requests. Lifespans are in test_lifespan.py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import pytest
from opentelemetry import trace
from psycopg.conninfo import make_conninfo

import poolguard
import poolguard.asgi
from poolguard.asgi import App, PoolGuardMiddleware, Receive, Scope, Send
from poolguard.pool.acquirer import CURRENT
from poolguard.pool.aio import AsyncGuardedPool
from poolguard.pool.errors import PoolClosed
from poolguard.runtime.lookup import guards
from poolguard.runtime.usage import REQUESTS

from .conftest import Spans

OK = {"type": "http.response.start", "status": 200, "headers": []}


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run it on a loop of its own, and close there what it has opened."""

    async def whole() -> None:
        try:
            await main()
        finally:
            for guard in guards():
                await guard.aclose()

    asyncio.run(whole())


@pytest.fixture
def guard(dsn: str) -> poolguard.Guard:
    """A guard that the first acquire opens."""
    return poolguard.Guard(dsn, mode="async", budget=3, floor=2)


def scope_of(kind: str = "http", **more: Any) -> Scope:
    return {"type": kind, "path": "/", "headers": [], **more}


async def receive() -> Any:
    """The server's ``receive``."""
    return {"type": "http.request"}


async def send(message: Any) -> None:
    """The server's ``send``."""


async def acquire(guard: poolguard.Guard) -> None:
    """Find it open, or have it opened."""
    with suppress(PoolClosed):
        await backend(guard)


async def backend(guard: poolguard.Guard) -> bytes:
    async with guard.aconnection() as conn:
        [row] = await (await conn.execute("SELECT pg_backend_pid()")).fetchall()
    return str(row[0]).encode()


def answering(*steps: Callable[[], Awaitable[object]]) -> App:
    """An application that takes these steps and then answers."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for step in steps:
            await step()
        await send(OK)
        await send({"type": "http.response.body", "body": b"ok"})

    return app


# -- what application and server see -----------------------------------------------------------


@pytest.mark.parametrize("kind", ["http", "websocket", "something.new"])
def test_same_task_same_scope_same_receive_and_what_it_returns(
    kind: str, guard: poolguard.Guard
) -> None:
    """Of every type of scope."""
    seen: list[object] = []
    returned = object()

    async def app(scope: Scope, receive: Receive, send: Send) -> object:
        seen.extend((asyncio.current_task(), scope, receive))
        return returned

    async def main() -> None:
        scope = scope_of(kind)
        before = dict(scope)
        assert await PoolGuardMiddleware(app)(scope, receive, send) is returned
        for found, given in zip(seen, (asyncio.current_task(), scope, receive), strict=True):
            assert found is given
        assert scope == before
        assert CURRENT.get() is None

    run(main)


@pytest.mark.parametrize("kind", ["http", "websocket", "something.new"])
@pytest.mark.parametrize(
    "error", [ValueError("mine"), SystemExit(1), asyncio.CancelledError()], ids=repr
)
def test_an_exception_passes_as_it_is(
    kind: str, error: BaseException, guard: poolguard.Guard
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    async def main() -> None:
        with pytest.raises(type(error)) as caught:
            await PoolGuardMiddleware(app)(scope_of(kind), receive, send)
        assert caught.value is error
        assert CURRENT.get() is None

    run(main)


def test_each_message_is_sent_when_the_application_sends_it(guard: poolguard.Guard) -> None:
    """The very same messages, none held back."""
    sent: list[object] = []
    chunks = [{"type": "http.response.body", "body": b"x", "more_body": n < 2} for n in range(3)]

    async def note(message: Any) -> None:
        sent.append(message)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for n, message in enumerate([OK, *chunks]):
            await send(message)
            assert len(sent) == n + 1

    async def main() -> None:
        await PoolGuardMiddleware(app)(scope_of(), receive, note)
        assert all(one is other for one, other in zip(sent, [OK, *chunks], strict=True))

    run(main)


def test_an_error_of_send_reaches_the_application(guard: poolguard.Guard) -> None:
    """The client has gone: some applications catch that."""
    caught: list[OSError] = []
    gone = OSError("gone")

    async def fail(message: Any) -> None:
        raise gone

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(OK)
        except OSError as error:
            caught.append(error)

    run(lambda: PoolGuardMiddleware(app)(scope_of(), receive, fail))
    assert caught == [gone]


# -- the span ----------------------------------------------------------------------------------


def test_a_request_that_acquired_gets_a_span_of_its_own(
    guard: poolguard.Guard, spans: Spans
) -> None:
    app = PoolGuardMiddleware(answering(lambda: backend(guard), lambda: backend(guard)))
    run(lambda: app(scope_of(path="/shop", method="POST"), receive, send))
    (span,) = (span for span in spans() if span.kind == "SERVER")
    assert (span.name, span.tags["acquire_count"]) == ("POST", 2)
    assert span.attributes["http.request.method"] == "POST"
    assert span.attributes["url.path"] == "/shop"
    assert span.attributes["http.response.status_code"] == 200


def test_a_websockets_handshake_is_a_get(guard: poolguard.Guard, spans: Spans) -> None:
    app = PoolGuardMiddleware(answering(lambda: backend(guard)))
    run(lambda: app(scope_of("websocket"), receive, send))
    (span,) = (span for span in spans() if span.kind == "SERVER")
    assert span.attributes["http.request.method"] == "GET"


def test_a_request_that_never_acquired_gets_none(guard: poolguard.Guard, spans: Spans) -> None:
    run(lambda: PoolGuardMiddleware(answering())(scope_of(), receive, send))
    assert spans() == []


def test_a_failure_is_in_the_span(guard: poolguard.Guard, spans: Spans) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await backend(guard)
        raise ValueError

    async def main() -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - it has no text
            await PoolGuardMiddleware(app)(scope_of(), receive, send)

    run(main)
    (span,) = (span for span in spans() if span.kind == "SERVER")
    assert span.attributes["error.type"] == "ValueError"
    assert span.raw["status"]["status_code"] == "ERROR"


def test_tasks_of_the_request_count_for_it(guard: poolguard.Guard, spans: Spans) -> None:
    """They inherit its context; the record in it is one and the same."""
    app = PoolGuardMiddleware(
        answering(lambda: asyncio.gather(*(backend(guard) for _ in range(3))))
    )
    run(lambda: app(scope_of(), receive, send))
    (span,) = (span for span in spans() if span.kind == "SERVER")
    assert span.tags["acquire_count"] == 3


def test_requests_at_the_same_time_are_told_apart(guard: poolguard.Guard, spans: Spans) -> None:
    """Nothing of a request is kept on the middleware."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(int(scope["path"][1:])):
            await backend(guard)

    async def main() -> None:
        door = PoolGuardMiddleware(app)
        await asyncio.gather(*(door(scope_of(path=f"/{n}"), receive, send) for n in (1, 2, 3, 4)))

    run(main)
    counted = {
        span.attributes["url.path"]: span.tags["acquire_count"]
        for span in spans()
        if span.kind == "SERVER"
    }
    assert counted == {"/1": 1, "/2": 2, "/3": 3, "/4": 4}


@pytest.mark.parametrize("headers", [[], [(b"accept", b"*/*")], [(b"x-odd", b"\xff\xfe")]])
def test_a_span_of_our_own_needs_no_header(
    headers: list[tuple[bytes, bytes]], guard: poolguard.Guard, spans: Spans
) -> None:
    app = PoolGuardMiddleware(answering(lambda: backend(guard)))
    run(lambda: app(scope_of(headers=headers), receive, send))
    (span,) = (span for span in spans() if span.kind == "SERVER")
    assert span.parent is None


def test_the_callers_trace_is_continued_whole(guard: poolguard.Guard, spans: Spans) -> None:
    """A header may come more than once, and means the sum of its parts."""
    trace_id, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = [
        (b"traceparent", f"00-{trace_id}-{caller}-01".encode()),
        (b"tracestate", b"one=1"),
        (b"tracestate", b"two=2"),
    ]
    app = PoolGuardMiddleware(answering(lambda: backend(guard)))
    run(lambda: app(scope_of(headers=headers), receive, send))
    (span,) = (span for span in spans() if span.kind == "SERVER")
    assert (span.trace, span.parent) == (f"0x{trace_id}", f"0x{caller}")
    assert "one" in span.raw["context"]["trace_state"]
    assert "two" in span.raw["context"]["trace_state"]


def test_what_the_pool_does_of_itself_is_in_no_ones_trace(
    guard: poolguard.Guard, spans: Spans
) -> None:
    """The first request opens the pool: its connects are not that request's doing."""

    async def see(scope: Scope, receive: Receive, send: Send) -> None:
        await guard.aopen(10)
        assert trace.get_current_span().get_span_context().is_valid

    async def main() -> None:
        with trace.get_tracer("tests").start_as_current_span("theirs"):
            await PoolGuardMiddleware(see)(scope_of(), receive, send)

    run(main)
    assert [span.name for span in spans()] == ["theirs"]


# -- opening without a lifespan ----------------------------------------------------------------


def test_first_requests_at_the_same_time_all_find_it_open(guard: poolguard.Guard) -> None:
    """The second does not overtake the first, which opens the pool."""

    async def main() -> None:
        app = PoolGuardMiddleware(answering(lambda: backend(guard)))
        await asyncio.gather(*(app(scope_of(), receive, send) for _ in range(5)))
        assert sum(guard.status()["acquires"].values()) == 5

    run(main)


def test_a_first_request_that_is_cancelled_leaves_the_pool_to_the_next(
    guard: poolguard.Guard,
) -> None:
    async def main() -> None:
        app = PoolGuardMiddleware(answering(lambda: backend(guard)))
        first = asyncio.ensure_future(app(scope_of(), receive, send))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        await app(scope_of(), receive, send)

    run(main)


def test_each_event_loop_has_its_pool_opened(guard: poolguard.Guard) -> None:
    """As test clients do, which run each request on a loop of its own."""
    app = PoolGuardMiddleware(answering(lambda: backend(guard)))
    for _ in range(2):
        run(lambda: app(scope_of(), receive, send))


def test_a_guard_closed_at_the_end_is_not_opened_again(guard: poolguard.Guard) -> None:
    """A server may still serve for a moment after the lifespan is over."""

    async def main() -> None:
        app = PoolGuardMiddleware(answering(lambda: acquire(guard)))
        await app(scope_of(), receive, send)
        assert guard.opened
        await guard.aclose()
        await app(scope_of(), receive, send)
        assert not guard.opened

    run(main)


def test_only_the_guard_that_is_given_is_opened(dsn: str, guard: poolguard.Guard) -> None:
    other = poolguard.Guard(dsn, name="other", mode="async", budget=2)

    async def main() -> None:
        app = answering(lambda: acquire(guard), lambda: acquire(other))
        await PoolGuardMiddleware(app, guard=other)(scope_of(), receive, send)
        assert [each.opened for each in guards()] == [False, True]

    run(main)


def test_a_guard_that_is_made_later_is_opened_by_its_first_acquire(
    dsn: str, guard: poolguard.Guard, caplog: pytest.LogCaptureFixture
) -> None:
    """Which says so, once."""
    named: list[str] = ["default"]
    app = PoolGuardMiddleware(answering(lambda: backend(poolguard.guard(named[-1]))))

    async def main() -> None:
        await app(scope_of(), receive, send)
        named.append(poolguard.Guard(dsn, name="later", mode="async", budget=2).name)
        for _ in range(2):
            await app(scope_of(), receive, send)

    run(main)
    said = [line for line in caplog.messages if "opened by the first request" in line]
    assert [line.split()[1] for line in said] == ["'default'", "'later'"]


def test_the_next_application_works_on_the_database_that_the_environment_names_now(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test suite that makes one for each test may run no lifespan and close nothing."""
    monkeypatch.setenv("POOLGUARD_BUDGET", "3")
    seen: list[str] = []

    async def look() -> None:
        async with poolguard.aconnection() as conn:
            seen.append(conn.info.dbname)

    async def main() -> None:
        for database in ("postgres", "template1", "postgres"):
            monkeypatch.setenv("DATABASE_URL", make_conninfo(dsn, dbname=database))
            await PoolGuardMiddleware(answering(look))(scope_of(), receive, send)

    run(main)
    assert seen == ["postgres", "template1", "postgres"]


def test_a_request_that_acquires_nothing_opens_nothing(guard: poolguard.Guard) -> None:
    """A test's, or one of a service whose database is away, is answered as without poolguard."""

    async def main() -> None:
        tasks = asyncio.all_tasks()
        await PoolGuardMiddleware(answering())(scope_of(), receive, send)
        assert not guard.opened
        assert asyncio.all_tasks() == tasks

    run(main)


def test_the_pool_itself_may_be_asked_for_first(guard: poolguard.Guard) -> None:
    """It is open at once, though opening an async pool is a coroutine."""

    async def ask() -> None:
        async with cast("AsyncGuardedPool[Any]", guard.pool).connection() as conn:
            await conn.execute("SELECT 1")

    run(lambda: PoolGuardMiddleware(answering(ask))(scope_of(), receive, send))
    assert sum(guard.status()["acquires"].values()) == 1


def test_outside_of_asyncio_an_async_pool_is_refused_in_words(guard: poolguard.Guard) -> None:
    """And nothing but that is."""
    asyncio.run(PoolGuardMiddleware(answering())(scope_of(), receive, send))
    with pytest.raises(poolguard.PoolguardError, match="asyncio runs no event loop here"):
        guard.aconnection()


def test_on_trio_sync_guards_are_used_as_elsewhere(
    dsn: str, guard: poolguard.Guard, caplog: pytest.LogCaptureFixture
) -> None:
    """From the lifespan on; the async one cannot be opened there."""
    trio: Any = pytest.importorskip("trio")
    sync = poolguard.Guard(dsn, name="sync", mode="sync", budget=2)

    def query() -> None:
        with sync.connection() as conn:
            conn.execute("SELECT 1")

    async def main() -> None:
        app = PoolGuardMiddleware(answering(lambda: trio.to_thread.run_sync(query)))
        async with poolguard.asgi.lifespan():
            assert sync.ready
            await app(scope_of(), receive, send)
        assert not sync.opened

    trio.run(main)
    assert sync.status()["acquires"] == {"acquired": 1}
    assert not guard.opened
    assert any("'default' is not opened: an async pool needs asyncio" in m for m in caplog.messages)


@pytest.mark.parametrize("used", [True, False])
def test_two_hundred_requests_without_an_acquire_are_said_once(
    used: bool, guard: poolguard.Guard, caplog: pytest.LogCaptureFixture
) -> None:
    """The application may go on connecting by itself."""
    guards = [guard] if used else []

    async def once() -> None:
        if guards:
            await backend(guards.pop())

    async def main() -> None:
        app = PoolGuardMiddleware(answering(once))
        for _ in range(REQUESTS - 1):
            await app(scope_of(), receive, send)
        assert [line for line in caplog.messages if "none of them" in line] == []
        for _ in range(2 * REQUESTS):
            await app(scope_of(), receive, send)

    run(main)
    said = [line for line in caplog.messages if "none of them" in line]
    assert len(said) == (not used)
    assert used or "'default'" in said[0]


def test_a_guard_that_lacks_a_database_is_said_and_costs_no_request(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing tries to reach a server that nobody has named."""
    for name in ("DATABASE_URL", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)

    async def main() -> None:
        app = PoolGuardMiddleware(answering())
        async with poolguard.asgi.lifespan():
            for _ in range(2):
                await app(scope_of(), receive, send)

    run(main)
    assert guards() == []
    assert [line for line in caplog.messages if "poolguard" in line] == [
        "poolguard: nothing says where the database is, so no pool is opened. Set DATABASE_URL, "
        "POOLGUARD_DSN or libpq's own variables, or make a poolguard.Guard with a dsn"
    ]


def test_an_environment_that_is_wrong_costs_no_request_that_acquires_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said, and raised to whoever acquires."""
    monkeypatch.setenv("DATABASE_URL", "host=127.0.0.1 port=1")
    monkeypatch.setenv("POOLGUARD_FLOOR", "many")

    async def main() -> None:
        app = PoolGuardMiddleware(answering())
        for _ in range(2):
            await app(scope_of(), receive, send)
        with pytest.raises(poolguard.SettingsError, match="POOLGUARD_FLOOR"):
            poolguard.aconnection()

    run(main)
    assert len([line for line in caplog.messages if "POOLGUARD_FLOOR" in line]) == 1
