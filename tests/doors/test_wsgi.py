"""The WSGI middleware changes nothing but the span, which is in test_wsgi_spans.py."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from wsgiref.handlers import SimpleHandler
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest
from psycopg.conninfo import make_conninfo

import poolguard
from poolguard.pool.acquirer import CURRENT
from poolguard.pool.errors import PoolClosed
from poolguard.worker import registry
from poolguard.wsgi import PoolGuardMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

OK = ("200 OK", [("Content-Type", "text/plain")])


@pytest.fixture
def guard(dsn: str) -> Iterator[poolguard.Guard]:
    """A guard that is open and warm."""
    with poolguard.Guard(dsn, mode="sync", budget=3, floor=2) as guard:
        yield guard


@pytest.fixture
def inert(dsn: str) -> poolguard.Guard:
    """A guard that nobody has opened."""
    return poolguard.Guard(dsn, mode="sync", budget=3, floor=2)


def environ_of(path: str = "/", **more: Any) -> WSGIEnvironment:
    environ: WSGIEnvironment = {"SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": "", **more}
    setup_testing_defaults(environ)
    return environ


class Server:
    """A server of the standard library, in memory: it holds the protocol as PEP 3333 has it."""

    def __init__(self, app: WSGIApplication) -> None:
        self.app = app
        self.errors = io.StringIO()

    def get(self, path: str = "/", **more: Any) -> bytes:
        """The whole response, headers included."""
        out = io.BytesIO()
        SimpleHandler(io.BytesIO(), out, self.errors, environ_of(path, **more)).run(self.app)
        return out.getvalue()


def nothing(status: str, headers: object, exc_info: object = None) -> Callable[[bytes], object]:
    """A ``start_response``."""
    return lambda chunk: None


def where() -> bytes:
    with poolguard.connection() as conn:
        return str(conn.info.dbname).encode()


def acquire(guard: poolguard.Guard) -> bytes:
    """Find it open, or have it opened."""
    with suppress(PoolClosed):
        backend(guard)
    return b"acquired"


def backend(guard: poolguard.Guard) -> bytes:
    with guard.connection() as conn:
        row = conn.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    return str(row[0]).encode()


# -- what the server sees ----------------------------------------------------------------------


def in_a_list(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response(*OK)
    return [b"one", b"two"]


def in_a_tuple(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response(*OK)
    return (b"one", b"two")


def by_a_generator(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """It is called, and calls ``start_response``, only when it is iterated."""
    start_response(*OK)
    yield b"one"
    yield b"two"


def through_write(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    write = start_response(*OK)
    write(b"one")
    write(b"two")
    return []


def from_a_file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response(*OK)
    body: Iterable[bytes] = environ["wsgi.file_wrapper"](io.BytesIO(b"onetwo"))
    return body


def from_an_object(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Neither a length nor ``close()``, only ``__getitem__``, which ``iter()`` takes too."""

    class Body:
        def __getitem__(self, n: int) -> bytes:
            return (b"one", b"two")[n]

    start_response(*OK)
    return Body()  # type: ignore[return-value]


def after_a_change_of_mind(
    environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    """Headers that were not sent yet are replaced, with ``exc_info``."""
    start_response(*OK)
    try:
        raise ValueError
    except ValueError:
        start_response("500 Oh no", [("Content-Type", "text/plain")], sys.exc_info())
    return [b"sorry"]


def after_the_headers_are_sent(
    environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    """The server raises what it is given, since it is too late."""
    start_response(*OK)
    yield b"one"
    try:
        raise ValueError
    except ValueError:
        start_response("500 Oh no", [("Content-Type", "text/plain")], sys.exc_info())


def failing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    raise ValueError


def failing_midway(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response(*OK)
    yield b"one"
    raise ValueError


def without_a_body(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    """An application's mistake."""
    start_response(*OK)


APPS = [
    in_a_list,
    in_a_tuple,
    by_a_generator,
    through_write,
    from_a_file,
    from_an_object,
    after_a_change_of_mind,
    after_the_headers_are_sent,
    failing,
    failing_midway,
    without_a_body,
]


@pytest.mark.parametrize("app", APPS, ids=lambda app: app.__name__)
def test_the_response_is_the_same_to_the_byte(
    app: WSGIApplication, guard: poolguard.Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgiref.handlers.format_date_time", lambda _: "now")
    without, behind = Server(app), Server(PoolGuardMiddleware(app))
    assert behind.get() == without.get()
    last = [server.errors.getvalue().strip().rpartition("\n")[2] for server in (without, behind)]
    assert last[0] == last[1]
    assert CURRENT.get() is None


@pytest.mark.parametrize(
    "app", [in_a_list, by_a_generator, through_write], ids=lambda app: app.__name__
)
def test_it_keeps_the_protocol(app: WSGIApplication, guard: poolguard.Guard) -> None:
    """wsgiref's validator on both sides: it raises at every breach by server or application."""
    server = Server(validator(PoolGuardMiddleware(validator(app))))
    assert server.get().endswith(b"onetwo")
    assert not server.errors.getvalue()


def test_a_list_and_a_file_are_handed_on_as_they_are(guard: poolguard.Guard) -> None:
    """The server sees the length of the one, and sends the other by its descriptor."""
    bodies: list[Any] = [[b"one"], (b"one",), FileWrapper(io.BytesIO(b"one"))]
    environ = environ_of(**{"wsgi.file_wrapper": FileWrapper})  # type: ignore[arg-type]
    for body in bodies:
        assert PoolGuardMiddleware(lambda *_: body)(environ, nothing) is body  # noqa: B023


def test_environ_and_the_exception_are_the_very_same(guard: poolguard.Guard) -> None:
    """Also one that is no ``Exception``: gunicorn ends a worker by SystemExit."""
    environ, error = environ_of(), SystemExit(1)
    seen: list[object] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(environ)
        raise error

    with pytest.raises(SystemExit) as caught:
        PoolGuardMiddleware(app)(environ, nothing)
    assert caught.value is error
    assert seen[0] is environ
    assert CURRENT.get() is None


def test_the_application_is_called_at_once_and_iterated_step_by_step(
    guard: poolguard.Guard,
) -> None:
    """Each chunk is asked for when the server wants it, none earlier."""
    did: list[str] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            for n in (b"1", b"2", b"3"):
                did.append(f"made {n.decode()}")
                yield n

        def close(self) -> None:
            did.append("closed")

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        did.append("called")
        start_response(*OK)
        return Body()

    body: Any = PoolGuardMiddleware(app)(environ_of(), nothing)
    assert did == ["called"]
    chunks = iter(body)
    assert next(chunks) == b"1"
    did.append("sent 1")
    assert next(chunks) == b"2"
    body.close()  # the client has gone
    assert did == ["called", "made 1", "sent 1", "made 2", "closed"]


def test_a_request_is_current_while_its_application_runs_and_at_no_other_time(
    guard: poolguard.Guard,
) -> None:
    """A test's client may never close a body, nor ask for all of it, and then acquire."""
    current: list[object] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            for chunk in (b"1", b"2"):
                current.append(CURRENT.get())
                yield chunk

        def close(self) -> None:
            current.append(CURRENT.get())

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        current.append(CURRENT.get())
        start_response(*OK)
        return Body()

    body: Any = PoolGuardMiddleware(app)(environ_of(), nothing)
    assert CURRENT.get() is None
    for _ in range(2):
        next(body)
        assert CURRENT.get() is None
    body.close()
    assert CURRENT.get() is None
    assert len(current) == 4
    assert current == [current[0]] * 4
    assert current[0] is not None


def test_an_error_of_close_passes(guard: poolguard.Guard) -> None:
    class Closing:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"one"])

        def close(self) -> None:
            raise KeyError("close")

    body: Any = PoolGuardMiddleware(lambda *_: Closing())(environ_of(), nothing)
    with pytest.raises(KeyError, match="close"):
        body.close()
    assert CURRENT.get() is None


@pytest.mark.parametrize("line", ["", "OK", "2", "２００ OK", "²²² OK", b"200 OK", None, 200])
def test_an_odd_status_line_is_the_servers_business(line: Any, guard: poolguard.Guard) -> None:
    given: list[object] = []

    def start_response(status: Any, headers: Any, exc_info: Any = None) -> Any:
        given.append(status)

    def app(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        start(line, [])
        return []

    assert PoolGuardMiddleware(app)(environ_of(), start_response) == []
    assert given == [line]


def test_an_environ_without_method_and_path_is_no_obstacle(guard: poolguard.Guard) -> None:
    assert PoolGuardMiddleware(lambda environ, start_response: [b"one"])({}, nothing) == [b"one"]


# -- opening -----------------------------------------------------------------------------------


def test_where_no_hook_has_opened_the_first_request_does(inert: poolguard.Guard) -> None:
    """Once it acquires, and without waiting for the pool to be warm."""
    app = PoolGuardMiddleware(lambda environ, start_response: [backend(inert)])
    assert not inert.opened
    assert app(environ_of(), nothing) != []
    assert inert.status()["acquires"].keys() <= {"acquired", "created", "waited"}
    inert.close()


def test_a_guard_closed_at_the_end_is_not_opened_again(inert: poolguard.Guard) -> None:
    """A thread of gthread may still have a request when the worker has closed its pools."""
    app = PoolGuardMiddleware(lambda environ, start_response: [acquire(inert)])
    app(environ_of(), nothing)
    assert inert.opened
    inert.close()
    app(environ_of(), nothing)
    assert not inert.opened


def test_only_the_guard_that_is_given_is_opened(dsn: str, inert: poolguard.Guard) -> None:
    other = poolguard.Guard(dsn, name="other", mode="sync", budget=2)
    app = PoolGuardMiddleware(lambda *_: [acquire(inert), acquire(other)], guard=other)
    app(environ_of(), nothing)
    assert [guard.opened for guard in registry.guards()] == [False, True]
    other.close()


def test_a_guard_that_is_made_later_is_opened_by_its_first_acquire(
    dsn: str, inert: poolguard.Guard, caplog: pytest.LogCaptureFixture
) -> None:
    """Which says so, once."""
    named = ["default"]
    app = PoolGuardMiddleware(lambda *_: [backend(poolguard.guard(named[-1]))])
    app(environ_of(), nothing)
    with poolguard.Guard(dsn, name="closes", mode="sync", budget=2):
        pass
    later = poolguard.Guard(dsn, name="later", mode="sync", budget=2)
    named.append("later")
    for _ in range(2):
        app(environ_of(), nothing)
    said = [line for line in caplog.messages if "opened by the first request" in line]
    assert [line.split()[1] for line in said] == ["'default'", "'later'"]
    later.close()
    inert.close()


def test_the_next_application_works_on_the_database_that_the_environment_names_now(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test suite that makes one for each test may close nothing."""
    monkeypatch.setenv("POOLGUARD_BUDGET", "3")
    for database in ("postgres", "template1", "postgres"):
        monkeypatch.setenv("DATABASE_URL", make_conninfo(dsn, dbname=database))
        app = PoolGuardMiddleware(lambda *_: [where()])
        for _ in range(2):
            assert app(environ_of(), nothing) == [database.encode()]


def test_a_request_that_acquires_nothing_opens_nothing(inert: poolguard.Guard) -> None:
    assert PoolGuardMiddleware(lambda *_: [b"one"])(environ_of(), nothing) == [b"one"]
    assert not inert.opened


def test_an_async_guard_is_left_alone(dsn: str) -> None:
    guard = poolguard.Guard(dsn, mode="async", budget=2)
    PoolGuardMiddleware(lambda environ, start_response: [])(environ_of(), nothing)
    assert not guard.opened


def test_many_first_requests_at_once_open_it_once(inert: poolguard.Guard) -> None:
    app = PoolGuardMiddleware(lambda environ, start_response: [backend(inert)])
    together = threading.Barrier(8)
    answers: list[Any] = []

    def get() -> None:
        together.wait(10)
        answers.append(app(environ_of(), nothing))

    threads = [threading.Thread(target=get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(answers) == 8
    assert sum(inert.status()["acquires"].values()) == 8
    inert.close()
