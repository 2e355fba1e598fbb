"""The ASGI door: a middleware that opens the pools in the lifespan and records each request.

Pure protocol: no framework is imported, the application runs in the same task with the same scope
and receive, and nothing of a request is kept on ``self``.
"""

from __future__ import annotations

import asyncio
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
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

from .errors import PoolguardError
from .pool.acquirer import CURRENT
from .runtime import usage
from .runtime.guards import Guard
from .runtime.lifespan import Held
from .telemetry.request import Reader, Request, hear_exclusions
from .util.logs import logger, name_of
from .worker import context, overload, registry
from .worker.readiness import Readiness, readiness

if TYPE_CHECKING:
    from .telemetry.http import Attributes

__all__ = ["PoolGuardMiddleware", "lifespan"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[Any]]
"""An application. Each framework has types of its own for what one is called with."""


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
        registry.wrap()
        self.app = app
        self._guard = guard
        self._known = -1
        """The version of the registry that this door has seen."""

    def __repr__(self) -> str:
        return f"<PoolGuardMiddleware guard={self._guard!r} app={name_of(self.app)}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        kind = scope["type"]
        if kind == "lifespan":
            return await _Lifespan(self.app, self._guard, receive, send).run(scope)
        if kind not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        if self._known != registry.version:
            self._look()
        if registry.ready_paths and (answer := _readiness(scope)) is not None:
            return await _tell(answer, scope, send)
        if usage.counts:
            usage.note()
        outer = CURRENT.get()
        if outer is not None and outer.lasts(None):
            return await self.app(scope, receive, send)
        # The handshake of a websocket is a GET.
        visit = _Visit(scope.get("method", "GET"), scope.get("path", ""), scope, _READER)
        visit.server, visit.kind, visit.status = send, kind, None
        token = CURRENT.set(visit)
        try:
            returned = await self.app(scope, receive, visit.send)
        except BaseException as error:
            if not await visit.answered_for(error):
                raise
            return None
        finally:
            CURRENT.reset(token)
        visit.end(visit.status)
        return returned

    def _look(self) -> None:
        """See which guards there are, which opens none."""
        usage.look(self._guard)
        self._known = registry.version
        context.current().serves()  # where there was no lifespan to tell


class _Visit(Request):
    """A request, from its entry to its end, with what it sends."""

    __slots__ = ("kind", "server", "status")

    server: Send
    """The server's own."""
    kind: str
    """``http`` or ``websocket``."""
    status: int | None
    """The response's, once it is sent."""

    def send(self, message: Message) -> Awaitable[None]:
        """The server's, with the status noted, and a 500 told as what an overload is."""
        said = message["type"]
        if said == "http.response.start":
            if self.retry_after and message.get("status") == 500:
                message = _unavailable(message, self.retry_after)
            self.status = message.get("status")
            self.note_unsampled()
        elif said == "http.response.body":
            self.answered = not message.get("more_body")
        elif self.kind == "websocket":
            self.status = _of_handshake(message, self.status)
        return self.server(message)

    async def answered_for(self, error: BaseException) -> bool:
        """End with the *error* that the application has raised. True where it says that there was
        no connection to be had, and the request has its answer: nothing is to be raised then."""
        overloaded = self.retry_after > 0 and isinstance(error, Exception)
        if overloaded and self.status is None and self.kind == "http":
            await _refuse(self.send)
        self.end(self.status, error)
        cause = overload.caused(error) if overloaded and self.status == 503 else None
        if cause is not None:
            overload.note(self.label, cause)
        return cause is not None


def _of_handshake(message: Message, status: int | None) -> int | None:
    """The HTTP status of a websocket's handshake."""
    if message["type"] == "websocket.http.response.start":  # it is denied, with a response
        return message.get("status")
    if status is None and message["type"] == "websocket.accept":
        return 101
    if status is None and message["type"] == "websocket.close":
        return 403
    return status


def _readiness(scope: Scope) -> Readiness | None:
    if scope["type"] != "http":
        return None
    root = scope.get("root_path", "")
    return readiness(scope.get("method", "GET"), scope.get("path", ""), root, "async")


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


_READER = Reader(_Headers, _described)


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
    held = await Held.open(app if isinstance(app, Guard) else guard)
    context.current().serves()
    try:
        yield
    finally:
        await held.close()


class _Lifespan:
    """One run of the lifespan protocol around the application's own.

    The pools open before the application's startup runs, which may use them, and close after its
    shutdown. An application without lifespan support gets its answers from here.
    """

    def __init__(self, app: App, guard: Guard | None, receive: Receive, send: Send) -> None:
        self._app = app
        self._guard = guard
        self._receive = receive
        self._send = send
        self._held = Held()
        self._startup: list[Message] = []
        """The server's first message, until the application asks for it."""
        self._asked = False
        """The application has asked for a message: it has a lifespan of its own."""
        self._started = False
        """The server has been told that the startup is complete, or has failed."""
        self._stopping = False
        """The application has been told to shut down."""
        self._ended = False
        """The server has been told that the startup failed, or that the shutdown is over."""

    async def run(self, scope: Scope) -> Any:
        """Run it to its end; returns what the application does."""
        self._startup = [await self._receive()]
        try:
            self._held = await Held.open(self._guard)
        except Exception as error:
            # Only an explicit failure stops a server: an exception makes some of them serve
            # without lifespan, and so without pools. The server logs the message.
            if not isinstance(error, PoolguardError):
                logger.exception("the pools could not be opened")
            said = f"poolguard {str(error).removeprefix('poolguard ')}"
            await self._send({"type": "lifespan.startup.failed", "message": said})
            return None
        returned = None
        try:
            returned = await self._app(scope, self.receive, self.send)
        except (GeneratorExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            if not await self._outlives(error):
                raise
        await self._complete()
        return returned

    async def receive(self) -> Message:
        """The server's, as the application sees it."""
        self._asked = True
        message = self._startup.pop() if self._startup else await self._receive()
        self._stopping |= message["type"] == "lifespan.shutdown"
        return message

    async def send(self, message: Message) -> None:
        """The server's, told once the pools are as it says."""
        said = message["type"]
        if said.startswith("lifespan.startup."):
            self._started = True
        if said != "lifespan.startup.complete":
            self._ended = True
            await self._held.close()
        await self._send(message)
        if said == "lifespan.startup.complete":
            context.current().serves()

    async def _outlives(self, error: BaseException) -> bool:
        """Whether the lifespan goes on though the application has raised *error*. The pools are
        closed where the server will not serve."""
        if isinstance(error, asyncio.CancelledError):
            if self._started:
                await self._held.close()  # the server ends without a shutdown, as on SIGQUIT
            else:
                logger.warning(
                    "the server has waited no longer for the application's startup, and may serve "
                    "without: the pools stay open"
                )
            return False
        if self._goes_on(error, _insisting(self._receive)):
            return True
        # The server may go on serving after a lifespan that failed midway: leave the pools.
        if self._stopping or not self._started:
            await self._held.close()
        return False

    async def _complete(self) -> None:
        """Give the server the answers that the application has not given."""
        if not self._started:
            await self._send({"type": "lifespan.startup.complete"})
            context.current().serves()
        if not self._ended:
            try:
                if not self._stopping:
                    await self._receive()  # the shutdown that the application has not waited for
            finally:
                await self._held.close()
            await self._send({"type": "lifespan.shutdown.complete"})

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
