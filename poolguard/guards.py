"""``Guard``: one database in one process, from settings to a warm pool.

The file is not called ``guard.py``, since ``poolguard.guard`` is the function below, and importing
a submodule of that name would put the module in its place.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
from collections.abc import Callable
from contextvars import Context
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import registry
from .budget.capacity import QUERY, Capacity
from .budget.ledger import StaticLedger
from .budget.plan import Plan, known_budget, make_plan
from .errors import ModeError, PoolguardError, SettingsError
from .settings import Settings

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    import psycopg

    from .pool.aio import AsyncGuardedPool
    from .pool.sync import GuardedPool

__all__ = ["Guard", "aconnection", "connection", "guard"]

logger = logging.getLogger("poolguard")

BUILD_TIMEOUT = 30.0
"""Seconds that an acquire waits for the opening thread to have imported psycopg."""


class Guard:
    """A pool for one database, sized from the budget, warmed in the background, kept fresh.

    Inert until opened, so it may be made before a fork. The same name and settings give the same
    guard.

    :param conninfo: a libpq connection string or URL, or a callable that returns one (asked at
        each connect, so credentials may rotate); by default what the environment says.
    :param name: names the pool in logs, spans and status.
    :param settings: see :class:`~poolguard.settings.Settings`.

    Raises :exc:`~poolguard.errors.SettingsError`, which names what is wrong and what to do.
    """

    name: str
    settings: Settings
    from_environment: bool
    _lock: threading.Lock

    def __new__(
        cls,
        conninfo: str | Callable[[], str] | None = None,
        *,
        name: str = "default",
        **settings: Any,
    ) -> Guard:
        built = Settings.build(dsn=conninfo, **settings)
        return registry.register(name, built, lambda: cls._make(name, built))

    @classmethod
    def _make(cls, name: str, settings: Settings, *, from_environment: bool = False) -> Guard:
        self = object.__new__(cls)
        self.name = name
        self.settings = settings
        self.from_environment = from_environment
        self._lock = threading.Lock()
        self._reset()
        return self

    def _reset(self) -> None:
        self._opened_in = 0
        self._closed = False
        self._built = threading.Event()
        self._broken: PoolguardError | None = None
        self._sync: GuardedPool[Any] | None = None
        self._async: AsyncGuardedPool[Any] | None = None
        self._ledger = StaticLedger(1)
        self._plan: Plan | None = None

    def __repr__(self) -> str:
        state = "inert"
        if self._opened_in:
            state = "closed" if self._closed else "ready" if self.ready else "opening"
        return f"<Guard {self.name!r} {state} {self.settings!r}>"

    # -- opening -------------------------------------------------------------------------------

    def open(self, wait: float = 0) -> bool:
        """Open the sync pool and start warming it in the background.

        Waits at most *wait* seconds for it to be warm; true when it is. A database that is away is
        no error: the pool keeps trying. Opening twice is allowed, reopening a closed guard too.
        Raises :exc:`~poolguard.errors.PoolguardError` where the settings cannot work.
        """
        self._must_be("sync")
        with self._lock:
            if not self.opened:
                self._reset()
                self._opened_in = os.getpid()
                threading.Thread(
                    target=self._open_sync, name=f"poolguard-{self.name}-open", daemon=True
                ).start()
        return self.wait_warm(wait) if wait > 0 else self.ready

    def wait_warm(self, timeout: float) -> bool:
        """Wait at most *timeout* seconds until the floor is reached; true when it has been.

        Raises what made opening impossible.
        """
        until = monotonic() + timeout
        if not self._built.wait(timeout):
            return False
        if self._broken is not None:
            raise self._broken
        return self._sync is not None and self._sync.wait_warm(max(0.0, until - monotonic()))

    def _open_sync(self) -> None:
        """Import psycopg and open the pool, in a thread: post_fork must not wait for either."""
        try:
            from .pool.sync import GuardedPool

            self._plan = self._plan_if_known()
            pool = GuardedPool(
                configure=self._configure, **self._arguments(), **self._pool_settings()
            )
            with self._lock:
                if self._closed:
                    return
                self._sync = pool
                pool.open()
        except PoolguardError as error:
            self._broken = error
            logger.error("poolguard %r cannot open: %s", self.name, error)  # noqa: TRY400
        except Exception as error:
            self._broken = PoolguardError(f"poolguard {self.name!r} cannot open: {error!r}")
            logger.exception("poolguard %r cannot open", self.name)
        finally:
            self._built.set()

    async def aopen(self, wait: float = 0) -> bool:
        """Open the async pool on the running loop and start warming it.

        Waits at most *wait* seconds for it to be warm; true when it is. Otherwise as :meth:`open`.
        """
        self._must_be("async")
        if not self.opened:
            self._reset()
            self._opened_in = os.getpid()
            from .pool.aio import AsyncGuardedPool

            try:
                self._plan = self._plan_if_known()
                self._async = AsyncGuardedPool(
                    configure=self._aconfigure, **self._arguments(), **self._pool_settings()
                )
            except PoolguardError:
                self._opened_in = 0
                raise
            # In an empty context: the pool's tasks are no part of the trace that is current here.
            opening = Context().run(asyncio.ensure_future, self._async.open())
            self._opening = opening
            self._built.set()
        await asyncio.shield(self._opening)
        assert self._async is not None
        return await self._async.wait_warm(wait) if wait > 0 else self.ready

    def _arguments(self) -> dict[str, Any]:
        """psycopg_pool's own arguments."""
        s = self.settings
        plan = self._plan
        return {
            "conninfo": s.dsn or "",
            "kwargs": self._connect_arguments(),
            "min_size": plan.floor if plan else 1,
            "max_size": plan.max_size if plan else 1,
            "open": False,
            "name": self.name,
            "timeout": s.acquire_timeout,
            "max_waiting": s.max_waiting,
            "max_lifetime": s.max_lifetime,
            "max_idle": s.idle_timeout,
            "reconnect_timeout": math.inf,
            "num_workers": 1,
        }

    def _pool_settings(self) -> dict[str, Any]:
        """What poolguard's pools take beyond psycopg_pool's."""
        from .telemetry.spans import SpanListener

        s = self.settings
        self._ledger.set_limit(self._plan.max_size if self._plan else 1)
        return {
            "ledger": self._ledger,
            "listener": SpanListener(s.spans),
            "max_connecting": s.max_connecting,
            "refresh_interval": s.refresh_interval,
            "check_timeout": s.check_timeout,
        }

    def _connect_arguments(self) -> dict[str, Any]:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict

        arguments: dict[str, Any] = {
            "connect_timeout": math.ceil(self.settings.connect_timeout),
            "fallback_application_name": "poolguard",
        }
        dsn = self.settings.dsn
        if isinstance(dsn, str):
            try:
                given = conninfo_to_dict(dsn)
            except ProgrammingError:
                raise SettingsError(
                    f"{self.settings.source('dsn')}: libpq cannot parse it as a connection string "
                    f"or URL (neither it nor libpq's message is shown, since they may hold the "
                    f"password). Special characters in a URL's user, password or path need "
                    f"percent-encoding"
                ) from None
            if self.settings.source("connect_timeout") == "default" and "connect_timeout" in given:
                del arguments["connect_timeout"]
        return arguments

    # -- plan ----------------------------------------------------------------------------------

    def _plan_if_known(self) -> Plan | None:
        if known_budget(self.settings) is None:
            return None
        return make_plan(None, self.settings, registry.workplace())

    def _adopt(self, row: Any) -> Plan:
        capacity = Capacity.from_row(row)
        plan = make_plan(capacity, self.settings, registry.workplace())
        self._ledger.set_limit(plan.max_size)
        self._plan = plan
        return plan

    def _configure(self, conn: psycopg.Connection[Any]) -> None:
        """With the first connection: ask what the server grants, and size the pool by it."""
        if self._plan is None and self._sync is not None:
            plan = self._adopt(_ask(conn))
            self._sync.resize(plan.floor, plan.max_size)

    async def _aconfigure(self, conn: psycopg.AsyncConnection[Any]) -> None:
        if self._plan is None and self._async is not None:
            plan = self._adopt(await _aask(conn))
            await self._async.resize(plan.floor, plan.max_size)

    # -- use -----------------------------------------------------------------------------------

    @property
    def pool(self) -> GuardedPool[Any] | AsyncGuardedPool[Any]:
        """The pool itself. Raises :exc:`~poolguard.errors.PoolguardError` while there is none."""
        return self._async or self._sync_pool()

    @property
    def plan(self) -> Plan | None:
        """Who gets how many connections; None until the server has been asked for its capacity."""
        return self._plan

    @property
    def opened(self) -> bool:
        """It was opened in this process and not closed since."""
        return self._opened_in == os.getpid() and not self._closed

    def not_warm(self) -> str:
        """What to say when the warm-up has not ended in time."""
        status = self.status()
        error = status.get("last_error")
        have = status.get("idle", 0) + status.get("used", 0)
        return (
            f"poolguard {self.name!r} is not warm after {self.settings.warmup_timeout:g} s: it has "
            f"{have} of {status.get('floor', '?')} connections"
            + (f"; the last failure: {error}" if error else "")
            + ". It keeps trying"
        )

    @property
    def ready(self) -> bool:
        """Open, warmed up, and at least one connection stands."""
        pool = self._async or self._sync
        if pool is None or pool.closed or not pool.warm:
            return False
        status = pool.status()
        return bool(status["idle"] + status["used"] > 0)

    def connection(self, timeout: float | None = None) -> AbstractContextManager[Any]:
        """A connection of the sync pool, as a context manager: ``with guard.connection() as conn``.

        *timeout*, in seconds, is ``acquire_timeout`` unless given. Raises
        :exc:`~poolguard.errors.ModeError` where the guard is async.
        """
        self._must_be("sync")
        return self._sync_pool().connection(timeout)

    def aconnection(self, timeout: float | None = None) -> AbstractAsyncContextManager[Any]:
        """A connection of the async pool: ``async with guard.aconnection() as conn``."""
        self._must_be("async")
        if self._async is None:
            raise self._not_open("await guard.aopen()")
        return self._async.connection(timeout)

    def _sync_pool(self) -> GuardedPool[Any]:
        if self._opened_in:
            self._built.wait(BUILD_TIMEOUT)
        if self._broken is not None:
            raise self._broken
        if self._sync is None:
            raise self._not_open("guard.open()")
        return self._sync

    def _not_open(self, how: str) -> PoolguardError:
        from .pool.errors import PoolClosed

        return PoolClosed(
            f"the guard {self.name!r} is not open in this process. Name poolguard's hooks in "
            f"gunicorn.conf.py and wrap the application in its middleware, or call {how}"
        )

    def _must_be(self, kind: str) -> None:
        mode = self.mode
        if mode is not None and mode != kind:
            use = "connection() and open()" if mode == "sync" else "aconnection() and aopen()"
            raise ModeError(
                f"the guard {self.name!r} is {mode} here, where {use} belong. For a {kind} pool "
                f"make another guard with a name of its own and mode={kind!r}"
            )

    @property
    def mode(self) -> str | None:
        """``sync`` or ``async``; None while nothing has decided it."""
        if self.settings.mode != "auto":
            return self.settings.mode
        if self._async is not None:
            return "async"
        if self._opened_in and self._opened_in == os.getpid():
            return "sync"
        return registry.workplace().mode

    def status(self) -> dict[str, Any]:
        """What the guard has and does, JSON-ready."""
        plan = self._plan
        pool = self._async or self._sync
        status: dict[str, Any] = {
            "name": self.name,
            "pid": os.getpid(),
            "mode": self.mode,
            "ready": self.ready,
        }
        if pool is not None:
            status |= pool.status()
        if self._broken is not None:
            status["last_error"] = str(self._broken)
        status["budget"] = {
            "capacity": plan and plan.capacity,
            "budget": plan and plan.budget,
            "instance": plan and plan.instance,
            "in_use": self._ledger.in_use,
        }
        return status

    # -- closing -------------------------------------------------------------------------------

    def close(self, timeout: float = 5.0) -> None:
        """Close the sync pool, within *timeout* seconds. Closing twice is allowed.

        A connection that is in use goes on until it is returned. In another process than the one
        that opened the guard, and for an async guard, nothing is done.
        """
        with self._lock:
            if self._opened_in != os.getpid() or self._async is not None:
                return
            self._closed = True
            pool = self._sync
        if pool is not None:
            pool.close(timeout)

    async def aclose(self, timeout: float = 5.0) -> None:
        """Close the async pool, within *timeout* seconds. Closing twice is allowed."""
        if self._opened_in == os.getpid() and self._async is not None:
            self._closed = True
            await self._async.close(timeout)

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


def guard(name: str = "default") -> Guard:
    """The guard of that name; the default one is made from the environment if there is none."""
    known = registry.registered(name)
    if known is not None:
        return known
    if name != "default":
        raise SettingsError(
            f"there is no guard named {name!r}: make it with poolguard.Guard(…, name={name!r})"
        )
    built = Settings.build()
    return registry.register(name, built, lambda: Guard._make(name, built, from_environment=True))


def connection(timeout: float | None = None) -> AbstractContextManager[Any]:
    """A connection of the default guard: ``with poolguard.connection() as conn``."""
    return guard().connection(timeout)


def aconnection(timeout: float | None = None) -> AbstractAsyncContextManager[Any]:
    """A connection of the default guard: ``async with poolguard.aconnection() as conn``."""
    return guard().aconnection(timeout)


def _ask(conn: psycopg.Connection[Any]) -> Any:
    from psycopg.rows import dict_row

    conn.autocommit = True
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(QUERY).fetchone()
    conn.autocommit = False
    return row


async def _aask(conn: psycopg.AsyncConnection[Any]) -> Any:
    from psycopg.rows import dict_row

    await conn.set_autocommit(True)
    async with conn.cursor(row_factory=dict_row) as cursor:
        row = await (await cursor.execute(QUERY)).fetchone()
    await conn.set_autocommit(False)
    return row
