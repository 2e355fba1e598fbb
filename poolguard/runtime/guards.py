"""``Guard``: one database in one process, as an application uses it.

The file is not called ``guard.py``, since ``poolguard.guard`` is a function, and importing a
submodule of that name would put the module in its place.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from ..budget.plan import Plan
from ..errors import ForkError, SettingsError
from ..pool.arguments import PoolArguments
from ..settings import Kind, Settings, checked_name
from ..worker import context, registry
from .aio import AsyncRuntime
from .lifecycle import Lifecycle
from .runtime import BUILD_TIMEOUT
from .status import status_of
from .sync import SyncRuntime

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from psycopg import AsyncConnection, Connection

    from ..pool.aio import AsyncGuardedPool
    from ..pool.sync import GuardedPool

__all__ = ["Guard", "described"]

GUNICORNS_FILE = "__config__"
"""As what gunicorn runs gunicorn.conf.py (gunicorn/app/base.py)."""


class Guard(Lifecycle):
    """A pool for one database, sized from the budget, warmed in the background, kept fresh.

    Inert until opened, so it may be made before a fork. The same name and settings give the same
    guard. One that is not open gives way to the next one of its name.

    From *configure* to *connection_class* the parameters mean what they mean to psycopg_pool's
    pools. For an async guard the callables may be coroutine functions.

    :param conninfo: a libpq connection string or URL, or a callable that returns one (asked at
        each connect, so credentials may rotate); by default what the environment says.
    :param name: names the pool in logs, spans and status; up to 100 printable characters.
    :param configure: called with each new connection, after poolguard's own questions to the
        server.
    :param reset: called with each connection that is returned.
    :param check: called with each connection before it is lent; what it raises refuses that one.
    :param kwargs: keyword arguments of psycopg's ``connect()``, or a callable that returns them,
        asked at each connect. They overrule *conninfo* and *connect_timeout*. A callable may not
        name another host, port, service or database than a *conninfo* that is a string does.
    :param connection_class: the class of the connections.
    :param settings: see :class:`~poolguard.settings.Settings`.

    Raises :exc:`~poolguard.errors.SettingsError`, which names what is wrong and what to do.
    """

    def __new__(
        cls,
        conninfo: str | Callable[[], str] | None = None,
        *,
        name: str = "default",
        configure: Callable[[Any], Any] | None = None,
        reset: Callable[[Any], Any] | None = None,
        check: Callable[[Any], Any] | None = None,
        kwargs: Mapping[str, Any] | Callable[[], Any] | None = None,
        connection_class: type[Any] | None = None,
        **settings: Any,
    ) -> Guard:
        name, built, arguments = described(
            conninfo,
            name,
            settings,
            configure=configure,
            reset=reset,
            check=check,
            kwargs=kwargs,
            connection_class=connection_class,
        )
        found = registry.register(name, built, lambda: cls._make(name, built, arguments), arguments)
        found.from_environment = found.retired = False
        if _is_made_by_file():
            found.in_file = "now"
        return found

    @classmethod
    def _make(
        cls,
        name: str,
        settings: Settings,
        arguments: PoolArguments = PoolArguments(),  # noqa: B008 - nobody changes it
        *,
        from_environment: bool = False,
    ) -> Guard:
        self = object.__new__(cls)
        self.name = name
        self.settings = settings
        self.arguments = arguments
        self.from_environment = from_environment
        self.retired = False
        self.in_file = ""
        self.when_warm = []
        self._runtime = None
        self.renew_lock()
        return self

    def __repr__(self) -> str:
        runtime = self._own()
        if runtime is None:
            state = "inert"
        elif runtime.alive:
            state = "ready" if self.ready else "opening" if runtime.error is None else "broken"
        else:
            state = "closed"
        return f"<Guard {self.name!r} {state} {self.settings!r}>"

    # -- opening and closing -------------------------------------------------------------------

    def open(self, wait: float = 0) -> bool:
        """Open the sync pool and start warming it in the background.

        Waits at most *wait* seconds for it to be warm; true when it is. A database that is away is
        no error: the pool keeps trying. Opening twice is allowed, reopening a closed guard too.
        Raises :exc:`~poolguard.errors.PoolguardError` where the settings cannot work, if that
        turns out within *wait* seconds; it is logged in any case. Raises
        :exc:`~poolguard.errors.SettingsError` where another guard of its name is open, or where it
        is open itself, and the environment that it comes from says something else by now.
        """
        with self._lock:
            self._begin("sync")
            self.retired = False
        return self.wait_warm(wait) if wait > 0 else self.ready

    async def aopen(self, wait: float = 0) -> bool:
        """Open the async pool on the running loop and start warming it.

        Waits at most *wait* seconds for it to be warm; true when it is. A pool whose loop was
        closed under it is given up, and another one opened. Otherwise as :meth:`open`.
        """
        with self._lock:
            self._begin("async")
            self.retired = False
        warm = await self.wait_warm_async(wait)
        return warm if wait > 0 else self.ready

    def wait_warm(self, timeout: float) -> bool:
        """Wait at most *timeout* seconds until the floor is reached; true when it has been.

        Raises what made opening impossible. False at once for a guard that is not open.
        """
        runtime = self._own()
        return isinstance(runtime, SyncRuntime) and runtime.wait_warm(timeout)

    async def wait_warm_async(self, timeout: float) -> bool:
        """As :meth:`wait_warm`, for the async pool."""
        runtime = self._own()
        return isinstance(runtime, AsyncRuntime) and await runtime.wait_warm(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Close the sync pool, within *timeout* seconds. Closing twice is allowed.

        A connection that is in use goes on until it is returned. In another process than the one
        that opened the guard, and for an async guard whose loop is there, nothing is done. It is
        opened again by its name only: by :meth:`open`, or a middleware that was given it.
        """
        self.retired = True
        self.shut(timeout)

    async def aclose(self, timeout: float = 5.0) -> None:
        """Close the async pool, within *timeout* seconds. Closing twice is allowed.

        It is opened again by its name only, as after :meth:`close`. Raises
        :exc:`~poolguard.errors.PoolguardError` where the guard is open on another loop.
        """
        self.insist_on_its_loop()
        self.retired = True
        await self.ashut(timeout)

    def __enter__(self) -> Guard:
        self.open(self.settings.warmup_timeout)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Guard:
        await self.aopen(self.settings.warmup_timeout)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    # -- use -----------------------------------------------------------------------------------

    def connection(self, timeout: float | None = None) -> AbstractContextManager[Connection[Any]]:
        """A connection of the sync pool, as a context manager: ``with guard.connection() as conn``.

        *timeout*, in seconds, is ``acquire_timeout`` unless given. Raises
        :exc:`~poolguard.errors.ModeError` where the guard is async.
        """
        runtime = self._runtime
        if isinstance(runtime, SyncRuntime) and runtime.usable is not None and runtime.here:
            return runtime.usable.connection(timeout)  # almost always: nothing is to be decided
        pool: GuardedPool[Any] = self._pool_of("sync")
        return pool.connection(timeout)

    def aconnection(
        self, timeout: float | None = None
    ) -> AbstractAsyncContextManager[AsyncConnection[Any]]:
        """A connection of the async pool: ``async with guard.aconnection() as conn``.

        Raises :exc:`~poolguard.errors.PoolguardError` where the guard is open on another loop.
        """
        runtime = self._runtime
        if isinstance(runtime, AsyncRuntime) and (usable := runtime.usable) and runtime.here:
            return usable.connection(timeout)
        pool: AsyncGuardedPool[Any] = self._pool_of("async")
        self.insist_on_its_loop()
        return pool.connection(timeout)

    @property
    def pool(self) -> GuardedPool[Any] | AsyncGuardedPool[Any]:
        """The pool itself. Raises :exc:`~poolguard.errors.PoolguardError` while there is none."""
        pool: GuardedPool[Any] | AsyncGuardedPool[Any] = self._pool_of(self.mode or "sync")
        return pool

    def _pool_of(self, kind: Kind) -> Any:
        """The pool, opened by this request where nobody has opened it before."""
        self._must_be(kind)
        self.open_for_request(kind)
        runtime = self._runtime
        if runtime is not None and not runtime.here:
            raise ForkError(
                f"the guard {self.name!r} was opened before this process ({os.getpid()}) was "
                f"forked, and its connections belong to the parent. Open the guard in the child: "
                f"under gunicorn, in post_fork or later, which poolguard's hooks do"
            )
        pool = None if runtime is None else runtime.built(BUILD_TIMEOUT)
        if pool is None:
            from ..pool.errors import PoolClosed

            how = "guard.open()" if kind == "sync" else "await guard.aopen()"
            raise PoolClosed(
                f"the guard {self.name!r} is not open in this process. Name poolguard's hooks in "
                f"gunicorn.conf.py and wrap the application in its middleware, or call {how}"
            )
        return pool

    # -- what it is ----------------------------------------------------------------------------

    @property
    def plan(self) -> Plan | None:
        """Who gets how many connections; None until the server has been asked for its capacity."""
        runtime = self._own()
        return None if runtime is None else runtime.plan

    @property
    def ready(self) -> bool:
        """Open, warmed up as far as there is anything left to open; a connection stands, and
        acquires do not time out one after the other."""
        runtime = self._own()
        pool = runtime.pool if runtime is not None and runtime.alive else None
        if pool is None or pool.closed or not (pool.warm or pool.starved):
            return False
        if pool.leaving and not context.current().stays:
            return False
        counts = pool.counts()
        return counts.size > counts.opening and not pool.stuck

    def status(self) -> dict[str, Any]:
        """What the guard has and does, JSON-ready."""
        own = {"name": self.name, "pid": os.getpid(), "mode": self.mode, "ready": self.ready}
        return {**own, **status_of(self._own())}


def described(
    conninfo: Any, name: str, settings: dict[str, Any], **arguments: Any
) -> tuple[str, Settings, PoolArguments]:
    """What the constructor's arguments say. Raises :exc:`~poolguard.errors.SettingsError`."""
    name = checked_name(name)
    if conninfo is not None:
        if settings.get("dsn") is not None:
            raise SettingsError("conninfo and dsn are the same setting; give one of them")
        settings["dsn"] = conninfo
    found = PoolArguments(**arguments)
    if settings.get("dsn") is None and found.names_place and not Settings.has_dsn():
        settings["dsn"] = ""  # whatever a DATABASE_URL of another kind of database says
    built = Settings.build(**settings)
    if built.mode != "auto":
        found.suit(built.mode)
    return name, built, found


def _is_made_by_file() -> bool:
    """The guard that is being made is made by gunicorn.conf.py as it runs, and not by a module that
    it imports, or by a hook that it defines: neither happens again when it is run again."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return frame is not None and frame.f_globals.get("__name__") == GUNICORNS_FILE
