"""Flask: a psycopg connection for each application context, from the guard's pool.

In a gunicorn worker it comes from the pool. In every other process, as ``flask shell``, a command
or a test, it is a plain one of psycopg's own, unless a guard was opened there on purpose.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any

from flask import current_app, g, has_request_context

from .errors import SettingsError
from .runtime import plain
from .runtime.adoption import in_each_worker, inert
from .runtime.guards import Guard
from .runtime.lookup import guard as guard_named
from .worker import context, overload, registry
from .wsgi import PoolGuardMiddleware

if TYPE_CHECKING:
    from flask import Flask
    from psycopg import Connection

__all__ = ["PoolGuard"]

NAME = "poolguard"
"""Of the extension in ``app.extensions``; in capitals, of its dict in ``app.config``."""


class PoolGuard:
    """The extension: ``db = PoolGuard(app)``, or ``db.init_app(app)`` for each app of a factory.

    It wraps ``app.wsgi_app`` in poolguard's middleware. The guard is *guard*; else that of the
    application's ``POOLGUARD``, a dict of :class:`~poolguard.Guard`'s arguments, which is made in
    gunicorn's workers only; else the default one, of the environment.

    :param app: the application, if there is one already.
    :param guard: the guard to use, in whichever application.
    """

    def __init__(self, app: Flask | None = None, *, guard: Guard | None = None) -> None:
        self._given = guard
        self._key = f"_poolguard_{id(self):x}"
        """Where ``flask.g`` keeps what this extension has taken: an application may have two."""
        if app is not None:
            self.init_app(app)

    def __repr__(self) -> str:
        return f"<PoolGuard for {self._given or 'the guard of each application'}>"

    def init_app(self, app: Flask) -> None:
        """Serve *app*. A second time for the same one does nothing.

        A mistake in its ``POOLGUARD`` has gunicorn's worker end with one clear line; elsewhere the
        first use of :attr:`connection` raises it.
        """
        known: dict[PoolGuard, _Source] = app.extensions.setdefault(NAME, {})
        if self in known:
            return
        source = known[self] = _Source(self._given, app.config.get(NAME.upper()))
        in_each_worker(source.made)
        app.teardown_appcontext(self._end)
        _before(app, "handle_user_exception", self._roll_back)
        if len(known) == 1:
            _log_overloads_shortly(app)
            if not isinstance(app.wsgi_app, PoolGuardMiddleware):
                door = PoolGuardMiddleware(app.wsgi_app, source.for_door())
                app.wsgi_app = door  # type: ignore[method-assign]

    @property
    def guard(self) -> Guard:
        """The guard of the current application. ``with db.guard:`` opens a pool on purpose.

        Raises :exc:`RuntimeError` outside of an application context, or where the application does
        not know this extension, and :exc:`~poolguard.errors.SettingsError`.
        """
        source: _Source | None = current_app.extensions.get(NAME, {}).get(self)
        if source is None:
            raise RuntimeError(
                f"the application {current_app.name!r} has not been given to this PoolGuard: call "
                f"init_app(app)"
            )
        return source.guard()

    @property
    def connection(self) -> Connection[Any]:
        """The connection of the current application context, taken when it is first asked for.

        It ends with the context as a ``with`` block of the pool's would: what was done is committed
        where the context ends well, and rolled back where it ends with an exception. An exception
        that leaves a view rolls back at once, ``abort(404)`` too. So an error handler finds the
        transaction ended, and what it does itself is committed when it has answered. A commit that
        fails is the server's to report: the response was made before.

        The context ends before a streamed body begins, which has a connection of its own: ask for
        it inside of the generator, under ``stream_with_context``.

        Raises :exc:`psycopg_pool.PoolTimeout` where there is none in time, which is answered with
        503 unless the application handles it, and as :attr:`guard`.
        """
        held: _Held | None = g.get(self._key)
        if held is None:
            held = _Held(self.guard)
            setattr(g, self._key, held)
        return held.conn

    def _roll_back(self, *_: object) -> None:
        """An exception has left a view, or what runs before one."""
        if (held := g.get(self._key)) is not None:
            held.roll_back()

    def _end(self, error: BaseException | None) -> None:
        """The context ends, with *error* or well."""
        if (held := g.pop(self._key, None)) is not None:
            held.end(error)


class _Source:
    """Where one application's guard is from."""

    def __init__(self, given: Guard | None, config: object) -> None:
        self._config = config if given is None else None
        self._serving = given
        """The guard that was given, or that this worker has made; None elsewhere."""
        self._inert: Guard | None = None
        """A guard of the configuration's that serves nothing, and that nobody else sees."""

    def made(self) -> list[Guard]:
        """Make the guard, in a worker of gunicorn's. The default one is made by the hooks."""
        if self._config is not None:
            self._serving = Guard(**_arguments(self._config))
        return [] if self._serving is None else [self._serving]

    def guard(self) -> Guard:
        """The guard, as far as there is one in this process."""
        if self._serving is not None or self._config is None:
            return self._serving or guard_named()
        if self._inert is None:
            self._inert = inert(**_arguments(self._config))
        known: Any = registry.registered(self._inert.name)
        is_open = known is not None and known.opened  # on purpose, by the same configuration
        return known if is_open and known.settings == self._inert.settings else self._inert

    def for_door(self) -> Guard | None:
        """The guard that the middleware is told of: one that is not registered it cannot know."""
        if self._config is None or context.role() is not None:
            return None
        with suppress(SettingsError):  # the first use of a connection raises it
            return self.guard()
        return None


def _arguments(config: object) -> Mapping[str, Any]:
    if not isinstance(config, Mapping):
        raise SettingsError(
            f"app.config['POOLGUARD']=<{type(config).__name__}>: it takes a dict of what "
            f"poolguard.Guard takes, such as {{'dsn': 'postgresql://…', 'floor': 4}}"
        )
    return config


class _Held:
    """The connection of one application context, until that ends."""

    __slots__ = ("_amid", "_block", "conn")

    def __init__(self, guard: Guard) -> None:
        self._amid = sys.exc_info()[1]
        """What was being handled already."""
        if plain.is_pooled(guard, serving=has_request_context()):
            self._block: Any = guard.connection()
        else:
            self._block = plain.connection(guard)
        self.conn: Connection[Any] = self._block.__enter__()

    def roll_back(self) -> None:
        from psycopg import Error

        with suppress(Error):  # it is broken, or in a two-phase transaction: its end sees to that
            self.conn.rollback()

    def end(self, error: BaseException | None) -> None:
        """Commit or roll back, and return the connection, or close a plain one."""
        if error is None and (now := sys.exc_info()[1]) is not self._amid:
            error = now  # older releases of click end a command's context without a word of it
        trace = None if error is None else error.__traceback__
        self._block.__exit__(None if error is None else type(error), error, trace)


def _before(app: Flask, name: str, ours: Callable[..., None]) -> None:
    """Have *ours* called before the method of that *name* of the application's, with what it is
    given: newer releases of Flask pass the context first."""
    theirs = getattr(app, name)

    @wraps(theirs)
    def both(*args: Any) -> Any:
        ours(*args)
        return theirs(*args)

    setattr(app, name, both)


def _log_overloads_shortly(app: Flask) -> None:
    """Of requests that are answered with 503 log a line in place of a traceback for each."""
    theirs = app.log_exception

    @wraps(theirs)
    def log_exception(*args: Any) -> None:
        if not overload.is_told(args[-1][1]):
            theirs(*args)

    setattr(app, "log_exception", log_exception)  # noqa: B010 - mypy knows it as a method
