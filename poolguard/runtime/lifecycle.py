"""How a guard is opened, shared, given up and opened again, by all that serve requests with it.

Hooks, lifespans, middlewares and the application all open guards; each may come first, come twice,
come in another process or on another event loop. What they may do with a guard is decided here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias, TypeVar

from ..errors import ModeError, PoolguardError, SettingsError
from ..pool.arguments import PoolArguments
from ..settings import Kind, Settings
from ..util.conninfo_location import same_database
from ..util.descriptors import make_room
from ..util.logs import logger
from ..worker import context, publish, registry
from .aio import AsyncRuntime
from .sync import SyncRuntime

__all__ = ["AnyRuntime", "Lifecycle", "stand_in"]

G = TypeVar("G", bound=registry.Registered)

LAST_LOOK = 0.5
"""Seconds that a guard which is closed waits for its metrics to be set up, where they are not yet:
the process may end now, and report for the only time."""

AnyRuntime: TypeAlias = SyncRuntime | AsyncRuntime


class Lifecycle:
    """A guard, as far as it is opened and closed."""

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
    when_warm: list[Callable[[], Any]]
    """What is to be done with a warm pool before the worker serves: functions of a sync guard,
    which a thread calls, or coroutine functions of an async one."""
    status: Callable[[], dict[str, Any]]
    _lock: threading.RLock
    _runtime: AnyRuntime | None

    def renew_lock(self) -> None:
        """Told by the registry: a holder of the lock at the fork does not exist here."""
        # Reentrant: a signal's handler may close the guard while the thread it interrupts opens it.
        self._lock = threading.RLock()

    def _own(self) -> AnyRuntime | None:
        """The last runtime, if it is this process' own."""
        runtime = self._runtime
        return runtime if runtime is not None and runtime.here else None

    @property
    def opened(self) -> bool:
        """It was opened in this process and not closed since."""
        runtime = self._own()
        return runtime is not None and runtime.alive

    @property
    def mode(self) -> Kind | None:
        """``sync`` or ``async``; None while nothing has decided it."""
        if self.settings.mode != "auto":
            return self.settings.mode
        runtime = self._own()
        return context.current().workplace.mode if runtime is None else runtime.mode

    # -- opening -------------------------------------------------------------------------------

    def _begin(self, kind: Kind) -> AnyRuntime:
        """Have it open, as a pool of that kind. Call it under the lock."""
        if self.from_environment:
            self._follow_environment()
        self._must_be(kind)
        self.arguments.suit(kind)
        registry.claim(self)
        if kind == "async":
            _insist_on_asyncio(self.name)
        before = self._own()
        if before is not None and before.mode == kind and before.alive:
            self.insist_on_its_loop()
            return before
        if isinstance(before, AsyncRuntime):
            before.abandon()
        make_room()
        runtime: AnyRuntime
        if kind == "sync":
            runtime = self._begin_sync()
        else:
            runtime = self._runtime = AsyncRuntime(self.name, self.settings, self.arguments)
        self._publish()
        return runtime

    def _begin_sync(self) -> SyncRuntime:
        former = self._runtime
        self._runtime = runtime = SyncRuntime(self.name, self.settings, self.arguments)
        try:
            runtime.begin()
        except RuntimeError:  # the process may have no more threads
            self._runtime = former
            raise
        return runtime

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

    def _must_be(self, kind: Kind) -> None:
        mode = self.mode
        if mode is not None and mode != kind:
            use = "connection() and open()" if mode == "sync" else "aconnection() and aopen()"
            raise ModeError(
                f"the guard {self.name!r} is {mode} here, where {use} belong. For the other kind "
                f"make another guard with a name of its own and mode={kind!r}"
            )

    def insist_on_its_loop(self) -> None:
        """Raise where it is open on another loop than the one that runs here, if one does."""
        runtime = self._own()
        if runtime is not None and runtime.is_elsewhere():
            raise PoolguardError(
                f"the guard {self.name!r} is open on another event loop, and its connections "
                f"belong to that. Use and close it there, or make a guard with another name for "
                f"this loop"
            )

    # -- by the doors --------------------------------------------------------------------------

    def hold(self, kind: Kind) -> AnyRuntime | None:
        """A lifespan begins: open the pool, or share it with another lifespan that has opened it.

        Returns what :meth:`let_go` takes; None where somebody else has opened the pool, and closes
        it. Raises as :meth:`~poolguard.Guard.open`.
        """
        with self._lock:
            alive = self.opened
            runtime = self._begin(kind)
            if alive and not runtime.holders:
                return None
            runtime.holders += 1
            return runtime

    def let_go(self, runtime: AnyRuntime) -> bool:
        """That lifespan ends. True: it was the last one, and the pool is to be closed."""
        with self._lock:
            runtime.holders -= 1
            return not runtime.holders and runtime is self._runtime

    def open_for_request(self, kind: Kind) -> None:
        """Open it where no hook and no lifespan has, and a door has begun to serve requests.

        Once: what was closed stays closed, unless that was on another loop, which has ended.
        """
        if not registry.served & {None, self}:
            return
        with self._lock:
            runtime = self._runtime
            if runtime is not None and not (runtime.ended and runtime.here):
                return
            logger.warning(
                "poolguard %r is opened by the first request that needs it, which has to wait: %s",
                self.name,
                _why_not_before(self, kind),
            )
            self._begin(kind).by_request = True

    def begin_anew(self) -> None:
        """Another application begins to serve: what a request of the one before has opened by an
        environment that has changed since is closed, and opened anew when it is needed.

        Raises :exc:`~poolguard.errors.SettingsError` where the environment is wrong.
        """
        runtime = self._own()
        if runtime is None or not (self.from_environment and runtime.by_request and self.opened):
            return
        if Settings.build() == self.settings:
            return
        logger.warning(
            "poolguard %r was opened by what the environment said before: it is closed, and opened "
            "anew by what it says now",
            self.name,
        )
        with self._lock:
            self._runtime = None
        publish.withdraw(self)
        runtime.close_soon()

    def adopt(self, arguments: PoolArguments) -> None:
        """An adapter goes on with a guard that the environment has made: what connects from now on
        does so with *arguments*. What is connected already is the adapter's to dress."""
        with self._lock:
            self.arguments = arguments
            self.from_environment = False
            runtime = self._own()
        if runtime is not None:
            runtime.adopt(arguments)
        registry.changed()

    # -- ending --------------------------------------------------------------------------------

    @property
    def owes(self) -> bool:
        """Other processes need connections, and this one holds some."""
        runtime = self._own()
        pool = runtime.pool if runtime is not None and runtime.alive else None
        return pool is not None and pool.owes

    def leave(self, *, accepts: bool = False) -> None:
        """The process will end soon: give up the floor, leave what is idle to siblings that need
        it, and close what is without use for a second, but for the last one while the process goes
        on accepting. Requests are served. Safe in a signal's handler."""
        runtime = self._own()
        if runtime is not None and runtime.alive and runtime.pool is not None:
            runtime.pool.leave(accepts=accepts)

    def shut(self, timeout: float = 5.0) -> None:
        """Close the sync pool, as :meth:`~poolguard.Guard.close` does, for a door: what opens all
        guards may open it again."""
        runtime = self._own()
        if runtime is not None and (runtime.mode == "sync" or runtime.ended):
            publish.withdraw(self)
            runtime.shut(timeout)
            _look_for_metrics(self.settings, LAST_LOOK)

    async def ashut(self, timeout: float = 5.0) -> None:
        """As :meth:`shut`, for the async pool."""
        runtime = self._own()
        if isinstance(runtime, AsyncRuntime):
            publish.withdraw(self)
            await runtime.close(timeout)
            _look_for_metrics(self.settings, LAST_LOOK)

    # -- what others read ----------------------------------------------------------------------

    def _publish(self) -> None:
        # Another ledger is in the same folder, and says what is wrong with that.
        said = self.settings.ledger != "static"
        publish.publish(self, self.settings.runtime_dir, self._published, said=said)

    def _published(self) -> dict[str, Any]:
        """The status, and what a reader of several needs to tell them apart, or add them up."""
        _look_for_metrics(self.settings)
        runtime = self._own()
        ledger = None if runtime is None else runtime.sizing.ledger_named
        worker_class = context.current().worker_class
        return {**self.status(), "worker_class": worker_class, "ledger": ledger}


def stand_in(found: Settings, others: Iterable[G]) -> G | None:
    """The first of *others* that leads to the database of the environment's settings *found*: a
    default guard beside it would be a second pool for it."""
    named = found.dsn or ""
    if not isinstance(named, str):
        return None
    for each in others:
        dsn = each.settings.dsn or ""
        if isinstance(dsn, str) and same_database(dsn, named, each.arguments.kwargs):
            return each
    return None


def _why_not_before(guard: Lifecycle, kind: Kind) -> str:
    """What has kept hooks and lifespan from opening it."""
    others = [each for each in registry.guards(retired=False) if not each.from_environment]
    if guard.from_environment and others:
        known = stand_in(guard.settings, others)
        if known is not None:
            mode = f" ({known.mode})" if known.mode else ""
            return (
                f"{known.name!r}{mode} is for the same database, and is opened in its place. "
                f"poolguard.guard({known.name!r}) is that one"
            )
        if not Settings.has_dsn(beside=True):
            return (
                f"the environment names no database, and the application has made none of that "
                f"name. poolguard.guard({others[0].name!r}) is one that it has made"
            )
    if kind == "async":
        return "the server has started no lifespan that reached poolguard's middleware"
    return "poolguard's hooks in gunicorn.conf.py open it before, in each worker"


def _insist_on_asyncio(name: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise PoolguardError(
            f"the guard {name!r} is async, and asyncio runs no event loop here: open it in a task "
            f"of asyncio's, or use a guard with mode='sync' in threads"
        ) from None


def _look_for_metrics(settings: Settings, wait: float = 0.0) -> None:
    """Set the metrics up, if by now there is a provider of them."""
    if settings.metrics != "off":
        from ..telemetry.durations import look

        look(wait)
