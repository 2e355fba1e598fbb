"""The WSGI door: a middleware that records each request.

The pools are opened by the gunicorn hooks, or by the first request where there are none. The
application is called at once. A list that it returns, or a file, is handed on as it is; any other
body may yet acquire while it is iterated, and is wrapped, so that the request ends with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .pool.acquirer import CURRENT, Acquirer
from .runtime import usage
from .runtime.guards import Guard
from .telemetry.request import Reader, Request
from .util.escape import escaped
from .util.logs import logger, name_of
from .worker import overload, registry
from .worker.readiness import readiness

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from .telemetry.http import Attributes

__all__ = ["PoolGuardMiddleware"]


class PoolGuardMiddleware:
    """Records what each request acquired, for its span.

    :param app: the WSGI application.
    :param guard: the guard that it is for; by default every sync guard that is registered, and the
        default one where the environment names a database.

    A request opens nothing by itself. Where there are no hooks, a guard is opened by the first
    acquire.
    """

    def __init__(self, app: WSGIApplication, guard: Guard | None = None) -> None:
        registry.wrap()
        self.app = app
        self._guard = guard
        self._known = -1
        """The version of the registry that this door has seen."""

    def __repr__(self) -> str:
        return f"<PoolGuardMiddleware guard={self._guard!r} app={name_of(self.app)}>"

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if self._known != registry.version:
            self._look()
        method, path = environ.get("REQUEST_METHOD", "GET"), environ.get("PATH_INFO", "")
        if registry.ready_paths:
            root = environ.get("SCRIPT_NAME", "")
            answer = readiness(method, root + path, root, "sync")
            if answer is not None:
                start_response(answer.line, answer.headers)
                return [b"" if method == "HEAD" else answer.body]
        if usage.counts:
            usage.note()
        source = environ.get("wsgi.input")
        outer = CURRENT.get()
        if outer is not None and outer.lasts(source):
            return self.app(environ, start_response)
        visit = _Visit(method, path, environ, _READER, source)
        visit.outer = outer
        visit.server = start_response
        visit.line = ""
        CURRENT.set(visit)
        try:
            body = self.app(environ, visit.start_response)
        except BaseException as error:
            refusal = visit.refused(error)
            visit.leave(error)
            if refusal is None:
                raise
            return [refusal]
        if isinstance(body, (list, tuple)) or _is_file(environ, body):
            visit.leave()
            return body
        visit.pause(outer)
        return _Body(body, visit)

    def _look(self) -> None:
        """See which guards there are, which opens none."""
        usage.look(self._guard)
        self._known = registry.version


def _is_file(environ: WSGIEnvironment, body: object) -> bool:
    """The server sends this body by its descriptor, and must see it as it is."""
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)


class _Headers(Mapping[str, str]):
    """A request's headers by name, read when a span of our own asks for the trace it continues."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        self._environ = environ

    def __getitem__(self, name: str) -> str:
        value: str = self._environ[f"HTTP_{name.upper().replace('-', '_')}"]
        return value

    def __iter__(self) -> Iterator[str]:
        return (
            key.removeprefix("HTTP_").replace("_", "-").lower()
            for key in self._environ
            if key.startswith("HTTP_")
        )

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _described(environ: WSGIEnvironment) -> Attributes:
    """What such a span says of the request."""
    from .telemetry.http import of_wsgi

    return of_wsgi(environ)


_READER = Reader(_Headers, _described)


class _Visit(Request):
    """A request being current in this context, from its entry to its end."""

    __slots__ = ("line", "outer", "server")

    outer: Acquirer | None
    """What was current before: nobody, or a request whose context this one runs in."""
    server: StartResponse
    """The server's own."""
    line: str
    """The response's status line, once the server has taken it."""

    @property
    def label(self) -> str:
        from .telemetry.http import text_of

        return escaped(f"{self._method} {text_of(self._path)}")

    def start_response(
        self, line: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """The server's, with the status noted once the server has taken it."""
        if self.retry_after and str(line).startswith("500"):
            line = overload.REASON
            headers = [*headers, ("Retry-After", str(self.retry_after))]
        if exc_info is None:
            write = self.server(line, headers)
        else:
            write = self.server(line, headers, exc_info)
        self.line = line
        self.note_unsampled()
        return write

    def refused(self, error: BaseException) -> bytes | None:
        """Answer an overload in the place of the application, which has raised *error*: returns the
        body; None where the error is to be raised, or was answered already in part."""
        if not self.retry_after or not isinstance(error, Exception):
            return None
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(overload.BODY))),
        ]
        raised = (type(error), error, error.__traceback__)
        try:
            self.start_response("500", headers, raised)
        except Exception:  # noqa: BLE001 - the server raises it again once it has sent the headers
            return None
        cause = overload.caused(error)
        if cause is None:
            logger.error("%s failed, and was answered with 503", self.label, exc_info=error)
        else:
            overload.note(self.label, cause)
        return overload.BODY

    def go_on(self) -> Acquirer | None:
        """The application runs again; returns what :meth:`pause` takes.

        No token: a server may ask for the body in another context than the one of the call.
        """
        before = CURRENT.get()
        CURRENT.set(self)
        return before

    def pause(self, before: Acquirer | None) -> None:
        """The server goes on, in whose context nothing is to be left: a test's client may never
        close the body."""
        if CURRENT.get() is self:
            CURRENT.set(before)

    def leave(self, error: BaseException | None = None) -> None:
        """The response is complete, or the application has failed."""
        self.end(self.line, error)
        self.pause(self.outer)


class _Body:
    """A body whose end is the end of its request."""

    def __init__(self, body: Iterable[bytes], visit: _Visit) -> None:
        self._body = body
        self._visit = visit
        self._chunks: Iterator[bytes] | None = None
        self._error: BaseException | None = None
        self._refused = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._refused:
            raise StopIteration
        before = self._visit.go_on()
        try:
            if self._chunks is None:
                self._chunks = iter(self._body)
            return next(self._chunks)
        except StopIteration:
            raise
        except BaseException as error:
            self._error = error
            refusal = self._visit.refused(error)
            if refusal is None:
                raise
            self._refused = True
            return refusal
        finally:
            self._visit.pause(before)

    def close(self) -> None:
        before = self._visit.go_on()
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            self._error = self._error or error
            raise
        finally:
            self._visit.end(self._visit.line, self._error)
            self._visit.pause(before)
            self._error = None  # its traceback leads back to here
