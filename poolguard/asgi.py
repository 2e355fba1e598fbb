"""The ASGI door: a middleware that opens the pools in the lifespan and records each request.

Pure protocol: no framework is imported, the application runs in the same task with the same scope
and receive, and nothing of a request is kept on ``self``.
"""

from __future__ import annotations

import asyncio
import math
import signal
import sys
import threading
import traceback
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
)
from contextlib import asynccontextmanager, contextmanager
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

from .errors import PoolguardError
from .pool.acquirer import CURRENT
from .runtime import usage
from .runtime.guards import Guard, guards_to_open
from .runtime.prewarm import rehearse
from .runtime.usage import announce
from .telemetry.request import Request, Wire, hear_exclusions
from .util.logs import logger, name_of
from .worker import overload, registry
from .worker.drain import at_once as _at_once
from .worker.drain import leave_when_told
from .worker.readiness import Readiness, readiness
from .worker.uvicorn import tell_when_read

if TYPE_CHECKING:
    from .runtime.opening import AsyncOpening, SyncOpening
    from .telemetry.http import Attributes

__all__ = ["PoolGuardMiddleware", "lifespan"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[Any]]

TURNS = 10
"""Turns of the event loop after which the first connects of a pool that opens are under way."""
POLL = 0.05
"""Seconds between two looks at whether the server was told to stop while it warms up."""
SYNC_POLL = 0.005
"""Seconds between two looks at a sync pool that warms up."""


longest_wait = math.inf
"""Seconds that a lifespan waits at most, whatever ``warmup_timeout`` says: the gunicorn hooks know
where a server gives up."""
may_exit = True
"""Whether ``on_warmup_failure="exit"`` applies: the gunicorn hooks say no after the first
generation of workers, since one that exits for it takes the whole service down."""
stop_server: Callable[[Exception], Awaitable[None]] | None = None
"""Ends a server that would go on serving after ``lifespan.startup.failed``: the gunicorn hooks know
whether theirs does."""


def _nobody_asks() -> None: ...


serves: Callable[[], None] = _nobody_asks
"""Called when the server accepts requests, or will in a moment: set by the gunicorn hooks."""

told_to_stop: Callable[[], bool] | None = None
"""Whether the server has been told to stop, maybe before the lifespan began: set by the gunicorn
hooks, which know."""


class PoolGuardMiddleware:
    """Opens, warms and closes the async pools with the server's lifespan; records requests.

    :param app: the ASGI application.
    :param guard: the guard to open; by default every guard that is registered when the server
        starts, and the default one where the environment names a database.

    A request opens nothing by itself. Where the server runs no lifespan, a guard is opened by the
    first acquire.
    """

    def __init__(self, app: App, guard: Guard | None = None) -> None:
        hear_exclusions()  # before the first request, which one further out may leave out
        self.app = app
        self._guard = guard
        self._known = -1
        """The version of the registry that this door has seen."""

    def __repr__(self) -> str:
        return f"<PoolGuardMiddleware guard={self._guard!r} app={name_of(self.app)}>"

    def _look(self) -> None:
        """See which guards there are, which opens none."""
        usage.look(self._guard)
        self._known = registry.version
        serves()  # where there was no lifespan to tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        kind = scope["type"]
        if kind == "lifespan":
            return await _Lifespan(self.app, self._guard).run(scope, receive, send)
        if kind not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        if self._known != registry.version:
            self._look()
        # The handshake of a websocket is a GET.
        method, path = scope.get("method", "GET"), scope.get("path", "")
        if registry.ready_paths and kind == "http":
            answer = readiness(method, path, scope.get("root_path", ""), "async")
            if answer is not None:
                return await _tell(answer, scope, send)
        if usage.counts:
            usage.note()
        outer = CURRENT.get()
        if outer is not None and outer.lasts(None):
            return await self.app(scope, receive, send)
        request = Request(method, path, scope, _WIRE)
        status: int | None = None

        def send_and_see(message: Message) -> Awaitable[None]:
            nonlocal status
            said = message["type"]
            if said == "http.response.start":
                if request.retry_after and message.get("status") == 500:
                    message = _unavailable(message, request.retry_after)
                status = message.get("status")
                request.glance()
            elif said == "http.response.body":
                request.answered = not message.get("more_body")
            elif kind == "websocket":
                status = _of_handshake(message, status)
            return send(message)

        token = CURRENT.set(request)
        try:
            returned = await self.app(scope, receive, send_and_see)
        except BaseException as error:
            overloaded = request.retry_after > 0 and isinstance(error, Exception)
            if overloaded and status is None and scope["type"] == "http":
                await _refuse(send_and_see)
            request.end(status, error)
            cause = overload.caused(error) if overloaded and status == 503 else None
            if cause is None:
                raise
            overload.note(request.label, cause)
            return None
        finally:
            CURRENT.reset(token)
        request.end(status)
        return returned


def _of_handshake(message: Message, status: int | None) -> int | None:
    """The HTTP status of a websocket's handshake."""
    if message["type"] == "websocket.http.response.start":  # it is denied, with a response
        return message.get("status")
    if status is None and message["type"] == "websocket.accept":
        return 101
    if status is None and message["type"] == "websocket.close":
        return 403
    return status


async def _tell(answer: Readiness, scope: Scope, send: Send) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers]
    body = b"" if scope.get("method") == "HEAD" else answer.body
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _unavailable(start: Message, retry_after: int) -> Message:
    """A 500 as the answer to an overload. The rest of the response is left as it is."""
    headers = [*start.get("headers", ()), (b"retry-after", b"%d" % retry_after)]
    return {**start, "status": 503, "headers": headers}


async def _refuse(send: Send) -> None:
    """Answer in the place of an application that has raised an error."""
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(overload.BODY)),
    ]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": overload.BODY})


class _Headers(Mapping[str, str]):
    """A request's headers by name, read when a span of our own asks for the trace it continues."""

    def __init__(self, scope: Scope) -> None:
        self._headers: Iterable[tuple[bytes, bytes]] = scope.get("headers", ())

    def __getitem__(self, name: str) -> str:
        wanted = name.lower().encode("latin-1")
        values = [value.decode("latin-1") for key, value in self._headers if key == wanted]
        if not values:
            raise KeyError(name)
        return ",".join(values)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key.decode("latin-1") for key, _ in self._headers))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _described(scope: Scope) -> Attributes:
    """What such a span says of the request."""
    from .telemetry.http import of_asgi

    return of_asgi(scope, _Headers(scope))


_WIRE = Wire(_Headers, _described)


@asynccontextmanager
async def lifespan(app: object = None, /, *, guard: Guard | None = None) -> AsyncIterator[None]:
    """Opens and warms the pools, and closes them at the end: what the middleware's lifespan does.

    For applications that have a lifespan of their own; it may also be given as it is, as
    ``Starlette(lifespan=poolguard.asgi.lifespan)``, which passes its application. Waits at most
    ``warmup_timeout`` seconds; a database that is away is no error, unless ``on_warmup_failure`` is
    ``exit``. Guards that are open already are none of its business, but for those that another
    lifespan has opened: the last one to end closes them.

    :param guard: the guard to open, also as the first argument; by default every guard that is
        registered, and the default one where the environment names a database.
    """
    opened = await _Opened.open(app if isinstance(app, Guard) else guard)
    serves()
    try:
        yield
    finally:
        await opened.close()


class _Opened:
    """The guards that one lifespan has opened, or shares with another, and lets go of."""

    def __init__(self) -> None:
        self._held: list[tuple[Guard, SyncOpening | AsyncOpening]] = []
        self._stop_listening: Callable[[], None] = lambda: None

    @classmethod
    async def open(cls, given: Guard | None) -> _Opened:
        """Open the guards that are not open yet, and wait for them to be warm."""
        self = cls()
        to_warm: list[Guard] = []
        try:
            with _listening() as told:
                announce(given)
                for each in guards_to_open(given):
                    kind = "sync" if each.mode == "sync" else "async"
                    if not each.opened:
                        to_warm.append(each)
                    if kind == "async" and not _on_asyncio():
                        to_warm.remove(each)
                        _say_that_asyncio_is_needed(each)
                    elif (opening := each.hold(kind)) is not None:
                        self._held.append((each, opening))
                began = monotonic()
                for _ in range(TURNS):
                    await _pause(0)
                rehearse()
                for each in to_warm:
                    await _warm(each, began, told)
        except BaseException as error:
            await self.close()
            if stop_server is not None and isinstance(error, Exception):
                await stop_server(error)
            raise
        read = tell_when_read(asyncio.get_running_loop()) if _on_asyncio() else _at_once
        self._stop_listening = leave_when_told(read)
        return self

    async def close(self) -> None:
        held, self._held = self._held, []
        self._stop_listening()
        last = [guard for guard, opening in held if guard.let_go(opening)]
        # In threads: what closes a sync pool may wait for a server that does not answer.
        closing = [Thread(target=each.shut) for each in last if each.mode == "sync"]
        for thread in closing:
            thread.start()
        for each in last:
            if each.mode != "sync":
                await each.ashut()
        while any(thread.is_alive() for thread in closing):
            await _pause(0.002)


def _on_asyncio() -> bool:
    """Whether asyncio runs what calls this; ASGI servers may run it on trio."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _pause(seconds: float) -> None:
    if _on_asyncio():
        await asyncio.sleep(seconds)
    else:
        await sys.modules["trio"].sleep(seconds)


def _say_that_asyncio_is_needed(guard: Guard) -> None:
    logger.warning(
        "poolguard %r is not opened: an async pool needs asyncio, and this server runs on another "
        "event loop. Run it on asyncio, or use a guard with mode='sync' in threads",
        guard.name,
    )


async def _warm(guard: Guard, began: float, told: Callable[[], bool]) -> None:
    """Wait for one guard to be warm, within its time, and as long as nobody stops the server."""
    wait = min(guard.settings.warmup_timeout, longest_wait)
    until = began + wait
    while not await _is_warm(guard, min(POLL, until - monotonic())):
        if told():
            return
        if monotonic() >= until:
            break
    else:
        return
    said = guard.not_warm(wait)
    if guard.settings.on_warmup_failure == "exit" and may_exit:
        raise PoolguardError(said)
    logger.warning("%s. It serves anyway, and keeps trying", said)


async def _is_warm(guard: Guard, wait: float) -> bool:
    if guard.mode != "sync":
        return await guard.wait_warm_async(wait)
    if not guard.wait_warm(0):  # a thread opens it, and the loop has to go on meanwhile
        await _pause(min(SYNC_POLL, max(0.0, wait)))
    return guard.wait_warm(0)


@contextmanager
def _listening() -> Iterator[Callable[[], bool]]:
    """Whether a signal to end has come since: while the lifespan starts up, servers only note it.

    Not SIGTERM alone: Ctrl-C reaches the workers too, and gunicorn's master passes on SIGQUIT.
    """
    told = False
    before: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        nonlocal told
        told = True
        before[number](number, frame)

    # The event loop's own handlers hang on a file descriptor and go on working.
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            handler = signal.getsignal(number)
            if callable(handler):  # the default ends the process at once
                before[number] = handler
                signal.signal(number, note)
    try:
        yield lambda: told or (told_to_stop is not None and told_to_stop())
    finally:
        for noted, handler in before.items():
            if signal.getsignal(noted) is note:
                signal.signal(noted, handler)


class _Lifespan:
    """One run of the lifespan protocol around the application's own.

    The pools open before the application's startup runs, which may use them, and close after its
    shutdown. An application without lifespan support gets its answers from here.
    """

    def __init__(self, app: App, guard: Guard | None) -> None:
        self._app = app
        self._guard = guard
        self._opened = _Opened()
        self._asked = False
        """The application has asked for a message: it has a lifespan of its own."""
        self._started = False
        """The server has been told that the startup is complete, or has failed."""
        self._stopping = False
        """The application has been told to shut down."""
        self._ended = False
        """The server has been told that the startup failed, or that the shutdown is over."""

    async def run(self, scope: Scope, receive: Receive, send: Send) -> Any:
        startup = [await receive()]
        try:
            self._opened = await _Opened.open(self._guard)
        except Exception as error:
            # Only an explicit failure stops a server: an exception makes some of them serve
            # without lifespan, and so without pools. The server logs the message.
            if not isinstance(error, PoolguardError):
                logger.exception("the pools could not be opened")
            said = f"poolguard {str(error).removeprefix('poolguard ')}"
            await send({"type": "lifespan.startup.failed", "message": said})
            return None

        async def receive_and_see() -> Message:
            self._asked = True
            message = startup.pop() if startup else await receive()
            self._stopping |= message["type"] == "lifespan.shutdown"
            return message

        async def send_when_closed(message: Message) -> None:
            if message["type"].startswith("lifespan.startup."):
                self._started = True
            if message["type"] != "lifespan.startup.complete":
                self._ended = True
                await self._close()
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                serves()

        returned = None
        try:
            returned = await self._app(scope, receive_and_see, send_when_closed)
        except asyncio.CancelledError:
            if not self._started:
                logger.warning(
                    "the server has waited no longer for the application's startup, and may serve "
                    "without: the pools stay open"
                )
            else:
                await self._close()  # the server ends without a shutdown, as gunicorn on SIGQUIT
            raise
        except (GeneratorExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            if not self._goes_on(error, _insisting(receive)):
                # The server may go on serving after a lifespan that failed midway: leave the pools.
                if self._stopping or not self._started:
                    await self._close()
                raise
        await self._complete(receive, send)
        return returned

    async def _complete(self, receive: Receive, send: Send) -> None:
        """Give the server the answers that the application has not given."""
        if not self._started:
            await send({"type": "lifespan.startup.complete"})
            serves()
        if not self._ended:
            try:
                if not self._stopping:
                    await receive()  # lifespan.shutdown, which the application has not waited for
            finally:
                await self._close()
            await send({"type": "lifespan.shutdown.complete"})

    def _goes_on(self, error: BaseException, insisting: str | None) -> bool:
        """Whether the server gets its answers from here after the application has raised *error*.

        It does where the application has no lifespan of its own, or has failed before it asked for
        a message, as it is served then without us; unless the server ends for that.
        """
        if self._started:
            return False
        if not self._asked and _knows_none(error):
            logger.debug("the application has no lifespan of its own", exc_info=True)
            return True
        if insisting != "uvicorn":  # which logs it
            logger.exception("the application has failed at its startup")
        return not self._asked and isinstance(error, Exception) and insisting is None

    async def _close(self) -> None:
        await self._opened.close()


def _insisting(receive: Receive) -> Literal["uvicorn", "gunicorn"] | None:
    """Which server it is, if it is one that ends for what a lifespan raises: as set to "on"."""
    server: Any = getattr(receive, "__self__", None)
    home = type(server).__module__
    if home == "uvicorn.lifespan.on" and server.config.lifespan == "on":
        return "uvicorn"
    cfg = getattr(server.logger, "cfg", None) if home == "gunicorn.asgi.lifespan" else None
    return "gunicorn" if getattr(cfg, "asgi_lifespan", "auto") == "on" else None


def _knows_none(error: BaseException) -> bool:
    """Whether an application that raises this has no lifespan: ASGI has those raise an error.

    Most assert that the scope is of another type, or say which types they take.
    """
    if not isinstance(error, AssertionError | LookupError | TypeError | ValueError):
        return isinstance(error, NotImplementedError)
    where = traceback.extract_tb(error.__traceback__)[-1].line or ""
    said = "".join([where, *traceback.format_exception_only(error)])
    return "scope" in said or "lifespan" in said
