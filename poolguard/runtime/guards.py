"""``Guard``: one database in one process, from settings to a warm pool.

The file is not called ``guard.py``, since ``poolguard.guard`` is the function below, and importing
a submodule of that name would put the module in its place.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast

from ..budget.plan import Plan
from ..errors import (
    ForkError,
    ModeError,
    PoolguardError,
    SettingsError,
)
from ..pool.arguments import PoolArguments
from ..settings import Settings, checked_name
from ..util.conninfo import same_database
from ..util.logs import logger
from ..worker import publish as board
from ..worker import registry
from .opening import AsyncOpening, SyncOpening

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from ..pool.aio import AsyncGuardedPool
    from ..pool.sync import GuardedPool

__all__ = [
    "Guard",
    "aconnection",
    "connection",
    "guard",
    "guards",
    "guards_to_open",
    "registered",
]


BUILD_TIMEOUT = 30.0
"""Seconds that an acquire waits for the opening thread to have imported psycopg."""
GUNICORNS_FILE = "__config__"
"""As what gunicorn runs gunicorn.conf.py (gunicorn/app/base.py)."""
LAST_LOOK = 0.5
"""Seconds that a guard which is closed waits for its metrics to be set up, where they are not yet:
the process may end now, and report for the only time."""


class Guard:
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

    name: str
    settings: Settings
    arguments: PoolArguments
    """What its pool is given beside the settings."""
    from_environment: bool
    """Nobody has spelled it out: it follows the environment of the moment in which it is opened."""
    retired: bool
    """It was closed by its name, and is opened again by its name only: no hook and no lifespan
    that opens all guards opens it."""
    in_file: Literal["", "now", "before"]
    """gunicorn.conf.py has made it, as it ran last or before that; the registry's to change."""
    _lock: threading.RLock
    _opening: SyncOpening | AsyncOpening | None

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
        name = checked_name(name)
        if conninfo is not None:
            if settings.get("dsn") is not None:
                raise SettingsError("conninfo and dsn are the same setting; give one of them")
            settings["dsn"] = conninfo
        arguments = PoolArguments(
            configure=configure,
            reset=reset,
            check=check,
            kwargs=kwargs,
            connection_class=connection_class,
        )
        if settings.get("dsn") is None and arguments.names_place and not Settings.has_dsn():
            settings["dsn"] = ""  # whatever a DATABASE_URL of another kind of database says
        built = Settings.build(**settings)
        if built.mode != "auto":
            arguments.suit(built.mode)
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
        arguments: PoolArguments = PoolArguments(),  # noqa: B008 - it cannot be changed
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
        # Reentrant: a signal's handler may close the guard while the thread it interrupts opens it.
        self._lock = threading.RLock()
        self._opening = None
        return self

    def renew_lock(self) -> None:
        """Told by the registry: whoever held the lock at the fork does not exist here."""
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        opening = self._own()
        if opening is None:
            state = "inert"
        elif opening.alive:
            state = "ready" if self.ready else "opening" if opening.error is None else "broken"
        else:
            state = "closed"
        return f"<Guard {self.name!r} {state} {self.settings!r}>"

    def _own(self) -> SyncOpening | AsyncOpening | None:
        """The last opening, if it was this process' own."""
        opening = self._opening
        return opening if opening is not None and opening.here else None

    # -- opening -------------------------------------------------------------------------------

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

    def _begin(self, kind: str) -> SyncOpening | AsyncOpening:
        """Have it open, as a pool of that kind. Call it under the lock."""
        if self.from_environment:
            self._follow_environment()
        self._must_be(kind)
        self.arguments.suit(kind)
        registry.claim(self)
        return self._begin_sync() if kind == "sync" else self._begin_async()

    def _follow_environment(self) -> None:
        says = Settings.build()
        if says == self.settings:
            return
        if self.opened:
            raise SettingsError(
                f"the guard {self.name!r} is open by what the environment said before: "
                f"{self.settings!r}, and it says {says!r} now, maybe for another database. Close "
                f"the guard before the environment is changed"
            )
        self.settings = says
        registry.changed()

    def _begin_sync(self) -> SyncOpening:
        opening = self._own()
        if isinstance(opening, SyncOpening) and opening.alive:
            return opening
        before = self._opening
        self._opening = opening = SyncOpening(self.name, self.settings, self.arguments)
        try:
            opening.begin()
        except RuntimeError:  # the process may have no more threads
            self._opening = before
            raise
        self._publish()
        return opening

    def _begin_async(self) -> AsyncOpening:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise PoolguardError(
                f"the guard {self.name!r} is async, and asyncio runs no event loop here: open it "
                f"in a task of asyncio's, or use a guard with mode='sync' in threads"
            ) from None
        opening = self._own()
        if not isinstance(opening, AsyncOpening) or not opening.alive:
            if isinstance(opening, AsyncOpening):
                opening.abandon()
            opening = self._opening = AsyncOpening(self.name, self.settings, self.arguments)
            self._publish()
        elif opening.loop is not loop:
            raise self._elsewhere()
        return opening

    def _elsewhere(self) -> PoolguardError:
        return PoolguardError(
            f"the guard {self.name!r} is open on another event loop, and its connections belong to "
            f"that. Use and close it there, or make a guard with another name for this loop"
        )

    def _insist_on_its_loop(self) -> None:
        """Raise where it is open on another loop than the one that runs here, if one does."""
        opening = self._own()
        if isinstance(opening, AsyncOpening) and opening.alive:
            with suppress(RuntimeError):  # no loop runs here
                if opening.loop is not asyncio.get_running_loop():
                    raise self._elsewhere()

    def wait_warm(self, timeout: float) -> bool:
        """Wait at most *timeout* seconds until the floor is reached; true when it has been.

        Raises what made opening impossible. False at once for a guard that is not open.
        """
        opening = self._own()
        return isinstance(opening, SyncOpening) and opening.wait_warm(timeout)

    async def wait_warm_async(self, timeout: float) -> bool:
        """As :meth:`wait_warm`, for the async pool."""
        opening = self._own()
        return isinstance(opening, AsyncOpening) and await opening.wait_warm(timeout)

    # -- doors ---------------------------------------------------------------------------------

    def hold(self, kind: str) -> SyncOpening | AsyncOpening | None:
        """A lifespan begins: open the pool, or share it with another lifespan that has opened it.

        Returns what :meth:`let_go` takes; None where somebody else has opened the pool, and closes
        it. *kind* is ``sync`` or ``async``. Raises as :meth:`open`.
        """
        with self._lock:
            alive = self.opened
            opening = self._begin(kind)
            if alive and not opening.holders:
                return None
            opening.holders += 1
            return opening

    def let_go(self, opening: SyncOpening | AsyncOpening) -> bool:
        """That lifespan ends. True: it was the last one, and the pool is to be closed."""
        with self._lock:
            opening.holders -= 1
            return not opening.holders and opening is self._opening

    def open_for_request(self, kind: str) -> None:
        """Open it where no hook and no lifespan has, and a door has begun to serve requests.

        Once: what was closed stays closed, unless that was on another loop, which has ended.
        """
        if not registry.served & {None, self}:
            return
        with self._lock:
            opening = self._opening
            ended = isinstance(opening, AsyncOpening) and opening.loop.is_closed()
            if opening is not None and not (ended and opening.here):
                return
            logger.warning(
                "poolguard %r is opened by the first request that needs it, which has to wait: %s",
                self.name,
                "the server has started no lifespan that reached poolguard's middleware"
                if kind == "async"
                else "poolguard's hooks in gunicorn.conf.py open it before, in each worker",
            )
            self._begin(kind).by_request = True

    def begin_anew(self) -> None:
        """Another application begins to serve: what a request of the one before has opened by an
        environment that has changed since is closed, and opened anew when it is needed.

        Raises :exc:`~poolguard.errors.SettingsError` where the environment is wrong.
        """
        opening = self._own()
        if opening is None or not (self.from_environment and opening.by_request and self.opened):
            return
        if Settings.build() == self.settings:
            return
        logger.warning(
            "poolguard %r was opened by what the environment said before: it is closed, and opened "
            "anew by what it says now",
            self.name,
        )
        with self._lock:
            self._opening = None
        board.withdraw(self)
        opening.close_soon()

    # -- use -----------------------------------------------------------------------------------

    @property
    def pool(self) -> GuardedPool[Any] | AsyncGuardedPool[Any]:
        """The pool itself. Raises :exc:`~poolguard.errors.PoolguardError` while there is none."""
        return self._async_pool() if self.mode == "async" else self._sync_pool()

    @property
    def plan(self) -> Plan | None:
        """Who gets how many connections; None until the server has been asked for its capacity."""
        opening = self._own()
        return None if opening is None else opening.plan

    @property
    def opened(self) -> bool:
        """It was opened in this process and not closed since."""
        opening = self._own()
        return opening is not None and opening.alive

    def not_warm(self, after: float) -> str:
        """What to say when the warm-up has not ended in time, *after* so many seconds."""
        status = self.status()
        error = status["last_error"]
        have = status["idle"] + status["used"]
        floor = "?" if status["floor"] is None else status["floor"]
        return (
            f"poolguard {self.name!r} is not warm after {after:g} s: it has "
            f"{have} of {floor} connections" + (f"; the last failure: {error}" if error else "")
        )

    @property
    def ready(self) -> bool:
        """Open, warmed up as far as there is anything left to open; a connection stands, and
        acquires do not time out one after the other."""
        opening = self._own()
        pool = opening.pool if opening is not None and opening.alive else None
        if pool is None or pool.closed or not (pool.warm or pool.starved):
            return False
        if pool.leaving and not registry.stays:
            return False
        counts = pool.counts()
        return counts.size > counts.opening and not pool.stuck

    @property
    def owes(self) -> bool:
        """Other processes need connections, and this one holds some."""
        opening = self._own()
        pool = opening.pool if opening is not None and opening.alive else None
        return pool is not None and pool.owes

    def connection(self, timeout: float | None = None) -> AbstractContextManager[Any]:
        """A connection of the sync pool, as a context manager: ``with guard.connection() as conn``.

        *timeout*, in seconds, is ``acquire_timeout`` unless given. Raises
        :exc:`~poolguard.errors.ModeError` where the guard is async.
        """
        opening = self._opening
        if isinstance(opening, SyncOpening) and opening.usable is not None and opening.here:
            return opening.usable.connection(timeout)  # almost always: nothing is to be decided
        return self._sync_pool().connection(timeout)

    def aconnection(self, timeout: float | None = None) -> AbstractAsyncContextManager[Any]:
        """A connection of the async pool: ``async with guard.aconnection() as conn``.

        Raises :exc:`~poolguard.errors.PoolguardError` where the guard is open on another loop.
        """
        opening = self._opening
        if isinstance(opening, AsyncOpening) and (pool := opening.usable) and opening.here:
            return pool.connection(timeout)
        pool = self._async_pool()
        self._insist_on_its_loop()
        return pool.connection(timeout)

    def _sync_pool(self) -> GuardedPool[Any]:
        self._must_be("sync")
        self.open_for_request("sync")
        opening = self._opened_here()
        pool = opening.built(BUILD_TIMEOUT) if isinstance(opening, SyncOpening) else None
        if pool is None:
            raise self._not_open("guard.open()")
        return pool

    def _async_pool(self) -> AsyncGuardedPool[Any]:
        self._must_be("async")
        self.open_for_request("async")
        opening = self._opened_here()
        if (
            not isinstance(opening, AsyncOpening)
            or opening.pool is None
            or opening.loop.is_closed()
        ):
            raise self._not_open("await guard.aopen()")
        return opening.pool

    def _opened_here(self) -> SyncOpening | AsyncOpening | None:
        if self._opening is not None and not self._opening.here:
            raise ForkError(
                f"the guard {self.name!r} was opened before this process ({os.getpid()}) was "
                f"forked, and its connections belong to the parent. Open the guard in the child: "
                f"under gunicorn, in post_fork or later, which poolguard's hooks do"
            )
        return self._opening

    def _not_open(self, how: str) -> PoolguardError:
        from ..pool.errors import PoolClosed

        return PoolClosed(
            f"the guard {self.name!r} is not open in this process. Name poolguard's hooks in "
            f"gunicorn.conf.py and wrap the application in its middleware, or call {how}"
        )

    def _must_be(self, kind: str) -> None:
        mode = self.mode
        if mode is not None and mode != kind:
            use = "connection() and open()" if mode == "sync" else "aconnection() and aopen()"
            raise ModeError(
                f"the guard {self.name!r} is {mode} here, where {use} belong. For the other kind "
                f"make another guard with a name of its own and mode={kind!r}"
            )

    @property
    def mode(self) -> Literal["sync", "async"] | None:
        """``sync`` or ``async``; None while nothing has decided it."""
        if self.settings.mode != "auto":
            return self.settings.mode
        opening = self._own()
        if opening is not None:
            return opening.mode
        return registry.workplace().mode

    def status(self) -> dict[str, Any]:
        """What the guard has and does, JSON-ready."""
        opening = self._own()
        pool = None if opening is None else opening.pool
        plan = self.plan
        status: dict[str, Any] = {
            "name": self.name,
            "pid": os.getpid(),
            "mode": self.mode,
            "ready": self.ready,
            "leaving": pool is not None and pool.leaving,
            "floor": None,
            "max_size": None,
            **dict.fromkeys(("idle", "used", "opening", "waiting"), 0),
            "acquires": {},
            "created": {},
            "closed": {},
            "leaks": {},
            "warmup": {"asked": None, "opened": 0, "seconds": None},
            "last_error": None,
        }
        if opening is not None:
            status |= opening.pool_status()
            if opening.error is not None:
                status["last_error"] = str(opening.error)
        status["budget"] = {
            "capacity": plan and plan.capacity,
            "budget": plan and plan.budget,
            "instance": opening and opening.share,
            "in_use": 0 if opening is None else opening.ledger.in_use,
            "others": [] if opening is None else opening.others,
        }
        return status

    def _publish(self) -> None:
        # Another ledger is in the same folder, and says what is wrong with that.
        said = self.settings.ledger != "static"
        board.publish(self, self.settings.runtime_dir, self._published, said=said)

    def _published(self) -> dict[str, Any]:
        """The status, and what a reader of several needs to tell them apart, or add them up."""
        self._look_for_metrics()
        opening = self._own()
        ledger = None if opening is None else opening.ledger_named
        return {**self.status(), "worker_class": registry.worker_class(), "ledger": ledger}

    def _look_for_metrics(self, wait: float = 0.0) -> None:
        """Whoever sets a provider of metrics up may do so after the guard was opened."""
        if self.settings.metrics != "off":
            from ..telemetry.durations import look

            look(wait)

    # -- ending --------------------------------------------------------------------------------

    def leave(self, *, accepts: bool = False) -> None:
        """The process will end soon: give up the floor, leave what is idle to siblings that need
        it, and close what is without use for a second, but for the last one while the process goes
        on accepting. Requests are served. Safe in a signal's handler."""
        opening = self._own()
        if opening is not None and opening.alive and opening.pool is not None:
            opening.pool.leave(accepts=accepts)

    def close(self, timeout: float = 5.0) -> None:
        """Close the sync pool, within *timeout* seconds. Closing twice is allowed.

        A connection that is in use goes on until it is returned. In another process than the one
        that opened the guard, and for an async guard whose loop is there, nothing is done. It is
        opened again by its name only: by :meth:`open`, or a middleware that was given it.
        """
        self.retired = True
        self.shut(timeout)

    def shut(self, timeout: float = 5.0) -> None:
        """What :meth:`close` does, for a door: whatever opens all guards may open it again."""
        opening = self._own()
        if isinstance(opening, SyncOpening):
            board.withdraw(self)
            opening.close(timeout)
            self._look_for_metrics(LAST_LOOK)
        elif isinstance(opening, AsyncOpening) and opening.loop.is_closed():
            board.withdraw(self)  # its server has ended without a lifespan shutdown, as on SIGQUIT
            opening.abandon()
            self._look_for_metrics(LAST_LOOK)

    async def aclose(self, timeout: float = 5.0) -> None:
        """Close the async pool, within *timeout* seconds. Closing twice is allowed.

        It is opened again by its name only, as after :meth:`close`. Raises
        :exc:`~poolguard.errors.PoolguardError` where the guard is open on another loop.
        """
        self._insist_on_its_loop()
        self.retired = True
        await self.ashut(timeout)

    async def ashut(self, timeout: float = 5.0) -> None:
        """What :meth:`aclose` does, for a door: whatever opens all guards may open it again."""
        opening = self._own()
        if isinstance(opening, AsyncOpening):
            board.withdraw(self)
            await opening.close(timeout)
            self._look_for_metrics(LAST_LOOK)

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


def _is_made_by_file() -> bool:
    """The guard that is being made is made by gunicorn.conf.py as it runs, and not by a module that
    it imports, or by a hook that it defines: neither happens again when it is run again."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return frame is not None and frame.f_globals.get("__name__") == GUNICORNS_FILE


def guards() -> list[Guard]:
    """All guards of this process, in the order in which they were made."""
    return cast("list[Guard]", registry.guards())


def registered(name: str) -> Guard | None:
    """The guard of that name, if there is one."""
    return cast("Guard | None", registry.registered(name))


def guards_to_open(given: Guard | None = None) -> list[Guard]:
    """Those that a door opens of itself: the one that it was given, or all that are registered and
    were not closed by name, and the default one of the environment.

    That one stands beside the others, unless one of them names the same database, and in the place
    of one that was closed by name.
    """
    if given is not None:
        return [given]
    found = [each for each in guards() if not each.retired and not each.from_environment]
    default = registered("default")
    if default in found or not Settings.has_dsn(beside=bool(found)):
        return found
    if found:
        named = Settings.build().dsn or ""
        known = [(each.settings.dsn or "", each.arguments.kwargs) for each in found]
        if isinstance(named, str) and any(
            isinstance(dsn, str) and same_database(dsn, named, kwargs) for dsn, kwargs in known
        ):
            return found
    return [_of_environment(), *found]


def guard(name: str = "default") -> Guard:
    """The guard of that name; the default one is made from the environment if there is none."""
    name = checked_name(name)
    known = registered(name)
    if known is not None:
        return known
    if name != "default":
        raise SettingsError(
            f"there is no guard named {name!r}: make it with poolguard.Guard(…, name={name!r})"
        )
    return _of_environment()


def _of_environment() -> Guard:
    known = registered("default")
    if known is not None and known.from_environment:
        return known
    built = Settings.build()
    found = registry.register(
        "default", built, lambda: Guard._make("default", built, from_environment=True)
    )
    found.retired = False
    return found


def connection(timeout: float | None = None) -> AbstractContextManager[Any]:
    """A connection of the default guard: ``with poolguard.connection() as conn``."""
    return guard().connection(timeout)


def aconnection(timeout: float | None = None) -> AbstractAsyncContextManager[Any]:
    """A connection of the default guard: ``async with poolguard.aconnection() as conn``."""
    return guard().aconnection(timeout)
