"""The WSGI door: a middleware that records each request.

The pools are opened by the gunicorn hooks, or by the first request where there are none. The
application is called at once; its iterable is handed on as it is, but where a span of our own must
end with it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from . import registry
from .guards import Guard
from .guards import guard as guard_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from .telemetry.request import Request

__all__ = ["PoolGuardMiddleware"]


class PoolGuardMiddleware:
    """Records what each request acquired, for its span.

    :param app: the WSGI application.
    :param guard: the guard that the first request opens where no hook has; by default every sync
        guard that is registered, or the default one from the environment where none is.
    """

    def __init__(self, app: WSGIApplication, guard: Guard | None = None) -> None:
        self.app = app
        self._guard = guard

    def __repr__(self) -> str:
        return f"<PoolGuardMiddleware guard={self._guard!r} app={self.app!r}>"

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        from .telemetry.request import CURRENT, Request

        for guard in _guards(self._guard):
            if not guard.opened:
                guard.open()
        request = Request(environ["REQUEST_METHOD"], environ.get("PATH_INFO", ""), _traced(environ))
        status: list[int] = []
        # Not reset when the application returns: a body that is still to be iterated may acquire.
        # The thread's next request replaces it.
        CURRENT.set(request)
        try:
            body = self.app(
                environ, start_response if request.has_span else _seeing(start_response, status)
            )
        except BaseException as error:
            request.end(_last(status), error)
            raise
        if isinstance(body, (list, tuple)):
            request.end(_last(status))
            CURRENT.set(None)
            return body
        if request.has_own_span and not _is_file(environ, body):
            return _Body(body, request, status)
        request.end(_last(status))
        return body


def _guards(given: Guard | None) -> list[Guard]:
    """The sync guards that a door is responsible for."""
    if given is not None:
        return [given]
    found = registry.guards() or [guard_of()]
    return [guard for guard in found if guard.mode != "async"]


def _traced(environ: WSGIEnvironment) -> dict[str, str]:
    """The headers that may carry a trace."""
    return {
        key[5:].replace("_", "-").lower(): environ[key]
        for key in ("HTTP_TRACEPARENT", "HTTP_TRACESTATE", "HTTP_BAGGAGE", "HTTP_B3")
        if key in environ
    }


def _seeing(start_response: StartResponse, status: list[int]) -> StartResponse:
    def start(line: str, *rest: Any, **named: Any) -> Callable[[bytes], object]:
        status.append(int(line[:3]))
        return start_response(line, *rest, **named)

    return start


def _last(status: list[int]) -> int | None:
    return status[-1] if status else None


def _is_file(environ: WSGIEnvironment, body: object) -> bool:
    """The server sends this body by its descriptor, and must see it as it is."""
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)


class _Body:
    """A streaming body whose end is the end of the request's own span."""

    def __init__(self, body: Iterable[bytes], request: Request, status: list[int]) -> None:
        self._body = body
        self._request = request
        self._status = status
        self._iterator: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        self._iterator = iter(self._body)
        return self

    def __next__(self) -> bytes:
        if self._iterator is None:
            self._iterator = iter(self._body)
        return next(self._iterator)

    def close(self) -> None:
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._request.end(_last(self._status), sys.exc_info()[1])
