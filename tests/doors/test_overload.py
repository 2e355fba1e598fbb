"""A request for which the pool had no connection is answered with 503, and when to try again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import psycopg_pool
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

import poolguard
from poolguard import asgi, wsgi
from poolguard.asgi import App, Message, Receive, Scope, Send
from poolguard.util.rarely import Paced
from poolguard.worker import overload
from tests.support import HOSTILE, obeyed

from .conftest import Spans
from .test_asgi import receive, run, scope_of
from .test_wsgi import environ_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

FULL_AT_ONE: dict[str, Any] = {
    "budget": 1,
    "floor": 1,
    "acquire_timeout": 0.05,
    "check_timeout": 0.05,
}
BUSY = overload.BODY


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "_pace", Paced(overload.SAID_EVERY))


# -- ASGI --------------------------------------------------------------------------------------


class Asked:
    """What an application behind the middleware answers while its pool has nothing to give."""

    def __init__(self, dsn: str, **settings: Any) -> None:
        self.guard = poolguard.Guard(dsn, mode="async", **FULL_AT_ONE, **settings)
        self.sent: list[Message] = []
        self.raised: BaseException | None = None

    def __call__(self, app: App, kind: str = "http", path: str = "/") -> Asked:
        async def send(message: Message) -> None:
            self.sent.append(message)

        async def main() -> None:
            await self.guard.aopen(10)
            async with self.guard.aconnection(timeout=10):
                try:
                    scope = scope_of(kind, method="GET", path=path)
                    await asgi.PoolGuardMiddleware(app)(scope, receive, send)
                except Exception as error:  # noqa: BLE001 - what the server is to see of it
                    self.raised = error

        run(main)
        return self

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    async def acquire(self) -> None:
        async with self.guard.aconnection():
            pass


@pytest.fixture
def asked(dsn: str) -> Asked:
    return Asked(dsn)


def test_an_asgi_application_that_fails_for_it_is_answered_for(
    asked: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, with one line in the log and no stack trace: the server is told of no error."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asked.acquire()

    asked(app)
    assert asked.raised is None
    assert [message["type"] for message in asked.sent] == [
        "http.response.start",
        "http.response.body",
    ]
    assert (asked.status, asked.body) == (503, BUSY)
    assert asked.headers[b"retry-after"] == b"1"
    assert asked.headers[b"content-length"] == str(len(BUSY)).encode()
    [said] = [r for r in caplog.records if r.name == "poolguard" and "503" in r.getMessage()]
    assert said.exc_info is None
    assert "GET / was answered with 503: couldn't get a connection" in said.getMessage()


def test_a_path_writes_nothing_into_the_log_but_itself(
    asked: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asked.acquire()

    asked(app, path=f"/{HOSTILE}")
    [said] = [r.getMessage() for r in caplog.records if "503" in r.getMessage()]
    assert (obeyed(said), "\n" in said) == ([], False)
    assert r"GET /\x1b]0;t\x07" in said


def starlette(asked: Asked, *, handles: bool = False) -> App:
    async def endpoint(request: Request) -> Response:
        await asked.acquire()
        return PlainTextResponse("never")

    async def handler(request: Request, error: Exception) -> Response:
        return PlainTextResponse("theirs", status_code=500, headers={"X-Theirs": "1"})

    handlers: Any = {Exception: handler} if handles else {}
    return Starlette(routes=[Route("/", endpoint)], exception_handlers=handlers)


@pytest.mark.parametrize("handles", [False, True])
def test_a_frameworks_500_for_it_becomes_a_503(*, asked: Asked, handles: bool) -> None:
    """With the framework's own body and headers."""
    asked(starlette(asked, handles=handles))
    assert asked.raised is None
    assert asked.status == 503
    assert asked.headers[b"retry-after"] == b"1"
    assert asked.body == (b"theirs" if handles else b"Internal Server Error")
    assert asked.headers.get(b"x-theirs") == (b"1" if handles else None)


def test_rejected_by_a_full_queue_is_the_same(dsn: str) -> None:
    asked = Asked(dsn, max_waiting=1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        waiting = asyncio.create_task(asked.acquire())
        while asked.guard.status()["waiting"] < 1:
            await asyncio.sleep(0)
        try:
            await asked.acquire()
        finally:
            waiting.cancel()

    asked(app)
    assert (asked.raised, asked.status, asked.headers[b"retry-after"]) == (None, 503, b"1")


def test_a_request_told_to_come_back_waits_as_long_as_it_has_waited(dsn: str) -> None:
    asked = Asked(dsn)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with asked.guard.aconnection(timeout=1.2):
            pass

    assert asked(app).headers[b"retry-after"] == b"2"


def test_who_answers_himself_is_left_alone(asked: Asked) -> None:
    """Whatever it is, but for a 500."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(psycopg_pool.PoolTimeout):
            await asked.acquire()
        await send({"type": "http.response.start", "status": 429, "headers": []})
        await send({"type": "http.response.body", "body": b"later"})

    asked(app)
    assert (asked.raised, asked.status, asked.headers, asked.body) == (None, 429, {}, b"later")


def test_another_error_is_answered_and_raised_too(asked: Asked) -> None:
    """It is to be seen in the log."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(psycopg_pool.PoolTimeout):
            await asked.acquire()
        raise ValueError("something else")

    asked(app)
    assert str(asked.raised) == "something else"
    assert asked.status == 503


def test_after_the_response_has_begun_nothing_can_be_answered(asked: Asked) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asked.acquire()

    asked(app)
    assert isinstance(asked.raised, psycopg_pool.PoolTimeout)
    assert [message["status"] for message in asked.sent] == [200]


def test_an_error_without_overload_is_not_answered(asked: Asked) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("mine")

    asked(app)
    assert (asked.sent, str(asked.raised)) == ([], "mine")


def test_a_500_without_overload_stays_one(asked: Asked) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("broken", status_code=500)(scope, receive, send)

    asked(app)
    assert (asked.status, b"retry-after" in asked.headers) == (500, False)


def test_a_websocket_is_not_answered(asked: Asked) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asked.acquire()

    asked(app, "websocket")
    assert asked.sent == []
    assert isinstance(asked.raised, psycopg_pool.PoolTimeout)


def test_the_span_of_a_request_says_503(asked: Asked, spans: Spans) -> None:
    asked(starlette(asked))
    [span] = [span for span in spans() if span.kind == "SERVER"]
    assert span.attributes["http.response.status_code"] == 503
    assert span.attributes["poolguard.request.outcome"] == "timeout"


# -- WSGI --------------------------------------------------------------------------------------


@pytest.fixture
def guard(dsn: str) -> Iterator[poolguard.Guard]:
    """One whose only connection is lent."""
    made = poolguard.Guard(dsn, mode="sync", **FULL_AT_ONE)
    with made, made.connection(timeout=10):
        yield made


class Started:
    """A server's ``start_response``, and what it was given."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.headers: dict[str, str] = {}
        self.written = False

    def __call__(
        self, line: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        if exc_info and self.written:
            raise exc_info[1]
        assert exc_info or not self.lines
        self.lines.append(line)
        self.headers = dict(headers)
        return lambda data: None

    def get(self, app: WSGIApplication, path: str = "/") -> bytes:
        body = wsgi.PoolGuardMiddleware(app)(environ_of(path), self)
        chunks = []
        try:
            for chunk in body:
                chunks.append(chunk)
                self.written |= bool(chunk)
        finally:
            if hasattr(body, "close"):
                body.close()
        return b"".join(chunks)


def test_a_wsgi_application_that_fails_for_it_is_answered_for(
    guard: poolguard.Guard, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with guard.connection():
            raise AssertionError

    started = Started()
    assert started.get(app) == BUSY
    assert started.lines == ["503 Service Unavailable"]
    assert started.headers["Retry-After"] == "1"
    assert started.headers["Content-Length"] == str(len(BUSY))
    said = [r for r in caplog.records if "503" in r.getMessage()]
    assert [r.exc_info for r in said] == [None]


def test_a_wsgi_path_writes_nothing_into_the_log_but_itself(
    guard: poolguard.Guard, caplog: pytest.LogCaptureFixture
) -> None:
    """Which is in UTF-8, and not in Latin-1 as WSGI has it."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with guard.connection():
            raise AssertionError

    Started().get(app, f"/größe{HOSTILE}".encode().decode("latin-1"))
    [said] = [r.getMessage() for r in caplog.records if "503" in r.getMessage()]
    assert (obeyed(said), "\n" in said) == ([], False)
    assert r"GET /größe\x1b]0;t\x07" in said


def test_one_that_fails_after_it_began_but_before_it_wrote_is_answered_for(
    guard: poolguard.Guard,
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("X-Theirs", "1")])
        yield b""
        with guard.connection():
            yield b"never"

    started = Started()
    assert started.get(app) == BUSY
    assert started.lines == ["200 OK", "503 Service Unavailable"]
    assert "X-Theirs" not in started.headers


def test_one_that_fails_after_it_wrote_is_not(guard: poolguard.Guard) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"begun"
        with guard.connection():
            yield b"never"

    started = Started()
    with pytest.raises(psycopg_pool.PoolTimeout):
        started.get(app)
    assert started.lines == ["200 OK"]


def test_a_wsgi_frameworks_500_for_it_becomes_a_503(guard: poolguard.Guard) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            with guard.connection():
                pass
        except psycopg_pool.PoolTimeout:
            start_response("500 INTERNAL SERVER ERROR", [("X-Theirs", "1")])
        return [b"theirs"]

    started = Started()
    assert started.get(app) == b"theirs"
    assert started.lines == ["503 Service Unavailable"]
    assert started.headers == {"X-Theirs": "1", "Retry-After": "1"}


def test_another_error_in_wsgi_is_answered_and_logged(
    guard: poolguard.Guard, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that was given an answer cannot be given the error as well."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with suppress(psycopg_pool.PoolTimeout), guard.connection():
            pass
        raise ValueError("something else")

    assert Started().get(app) == BUSY
    [said] = [r for r in caplog.records if r.exc_info]
    assert said.exc_info is not None
    assert str(said.exc_info[1]) == "something else"


@pytest.mark.parametrize("line", ["500 Oh", "404 No"])
def test_without_overload_wsgi_passes_what_it_is_given(guard: poolguard.Guard, line: str) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(line, [])
        return [b"theirs"]

    started = Started()
    assert started.get(app) == b"theirs"
    assert (started.lines, started.headers) == ([line], {})


# -- what an error was raised from -------------------------------------------------------------


def raised(*steps: BaseException) -> BaseException:
    """The last of *steps*, each raised from the one before."""
    for cause, error in pairwise(steps):
        error.__cause__ = cause
    return steps[-1]


def test_the_cause_is_found_in_what_the_error_was_raised_from() -> None:
    timeout = psycopg_pool.PoolTimeout("no")
    rejected = psycopg_pool.TooManyRequests("no")
    group = Exception("group")
    group.exceptions = (ValueError(), rejected)  # type: ignore[attr-defined]
    assert overload.caused(timeout) is timeout
    assert overload.caused(raised(timeout, KeyError(), ValueError())) is timeout
    assert overload.caused(raised(group, ValueError())) is rejected
    assert overload.caused(raised(KeyError(), ValueError())) is None


def test_an_error_that_is_its_own_cause_is_looked_at_once() -> None:
    error = ValueError()
    error.__cause__ = error
    assert overload.caused(error) is None


def test_a_storm_of_them_is_one_line_a_second(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    times = iter([100.0, 100.2, 100.9, 101.0, 103.0])
    monkeypatch.setattr(overload, "clock", lambda: next(times))
    with caplog.at_level(logging.WARNING, "poolguard"):
        for n in range(5):
            overload.note(f"GET /{n}", ValueError("no"))
    assert caplog.messages == [
        "poolguard: GET /0 was answered with 503: no",
        "poolguard: GET /3 was answered with 503, and 2 requests before it: no",
        "poolguard: GET /4 was answered with 503: no",
    ]
