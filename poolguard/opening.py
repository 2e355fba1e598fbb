"""One opening of a guard: the pool it makes, and the plan that sizes it.

A guard that was closed may be opened again while something of its former opening still goes on (the
opening thread, a connect): each opening has an object of its own, so that none reaches into the
next.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
from contextvars import Context
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

from . import registry
from .budget.capacity import QUERY, Capacity
from .budget.ledger import StaticLedger
from .budget.plan import Plan, known_budget, make_plan
from .conninfo import checked, parse
from .errors import PoolguardError
from .settings import Settings

if TYPE_CHECKING:
    import psycopg

    from .pool.aio import AsyncGuardedPool
    from .pool.sync import GuardedPool

__all__ = ["AsyncOpening", "SyncOpening"]

logger = logging.getLogger("poolguard")


class _Opening:
    """What both kinds have in common: whose it is, and from the settings to a pool's arguments."""

    mode: Literal["sync", "async"]

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.settings = settings
        self.closed = False
        self.plan: Plan | None = None
        self.ledger = StaticLedger(1)
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}{' closed' if self.closed else ''}>"

    @property
    def here(self) -> bool:
        """It is this process' own, and not that of the parent which forked it."""
        return self._pid == os.getpid()

    @property
    def alive(self) -> bool:
        """It is this process' own, and not closed."""
        return self.here and not self.closed

    def _arguments(self) -> dict[str, Any]:
        """What the pool is made with, but for its ``configure``."""
        from .telemetry.spans import SpanListener

        s = self.settings
        if known_budget(s) is not None:
            self.plan = make_plan(None, s, registry.workplace())
        # Otherwise one connection asks what the server grants, before there are others.
        floor, max_size = self._bounds(self.plan) if self.plan else (1, 1)
        self.ledger.set_limit(max_size)
        return {
            "conninfo": checked(s.dsn, s.source("dsn")) if callable(s.dsn) else s.dsn or "",
            "kwargs": self._connect_arguments(),
            "min_size": floor,
            "max_size": max_size,
            "open": False,
            "name": self.name,
            "timeout": s.acquire_timeout,
            "max_waiting": s.max_waiting,
            "max_lifetime": s.max_lifetime,
            "max_idle": s.idle_timeout,
            "reconnect_timeout": math.inf,
            "num_workers": 1,
            "ledger": self.ledger,
            "listener": SpanListener(s.spans),
            "max_connecting": s.max_connecting,
            "refresh_interval": s.refresh_interval,
            "check_timeout": s.check_timeout,
        }

    def _connect_arguments(self) -> dict[str, Any]:
        s = self.settings
        arguments: dict[str, Any] = {"fallback_application_name": "poolguard"}
        given = parse(s.dsn, s.source("dsn")) if isinstance(s.dsn, str) else {}
        theirs = "connect_timeout" in given or "PGCONNECT_TIMEOUT" in os.environ
        if not theirs or s.source("connect_timeout") != "default":
            arguments["connect_timeout"] = math.ceil(s.connect_timeout)
        return arguments

    def _adopt(self, row: Any) -> tuple[int, int]:
        """Make the plan from what the server grants; returns the pool's bounds."""
        plan = make_plan(Capacity.from_row(row), self.settings, registry.workplace())
        floor, max_size = self._bounds(plan)
        self.ledger.set_limit(max_size)
        self.plan = plan
        return floor, max_size

    @staticmethod
    def _bounds(plan: Plan) -> tuple[int, int]:
        # No ledger is shared by the workers yet: what each may borrow would be counted by nobody.
        return plan.floor, min(plan.max_size, plan.instance // plan.workers)


class SyncOpening(_Opening):
    """Opens a sync pool in a thread: ``post_fork`` must wait neither for a connect nor for the
    import of psycopg."""

    mode = "sync"

    def __init__(self, name: str, settings: Settings) -> None:
        super().__init__(name, settings)
        self.pool: GuardedPool[Any] | None = None
        self.error: PoolguardError | None = None
        """What made opening impossible."""
        self._built = threading.Event()
        # Reentrant: a signal's handler may close what the thread it interrupts is about to close.
        self._lock = threading.RLock()

    def begin(self) -> None:
        # In an empty context: what a pool does of itself is no part of a request's trace, and some
        # instrumentations carry the context that is current here into the threads it starts.
        threading.Thread(
            target=Context().run,
            args=(self._run,),
            name=f"poolguard-{self.name}-open",
            daemon=True,
        ).start()

    def _run(self) -> None:
        try:
            from .pool.sync import GuardedPool

            pool = GuardedPool(configure=self._configure, **self._arguments())
            with self._lock:
                if not self.closed:
                    self.pool = pool
                    pool.open()
        except PoolguardError as error:
            self.error = error
            # Raised to whoever waits for the pool or wants to use it: those will say it.
            logger.debug("poolguard %r cannot open: %s", self.name, error)
        except Exception as error:
            self.error = PoolguardError(f"poolguard {self.name!r} cannot open: {error!r}")
            logger.exception("poolguard %r cannot open", self.name)
        finally:
            self._built.set()

    def built(self, timeout: float) -> GuardedPool[Any] | None:
        """The pool, once there is one; None after *timeout* seconds, or when it was closed before.

        Raises what made opening impossible.
        """
        if not self._built.wait(timeout):
            return None
        if self.error is not None:
            # A new one each time: raising adds to a traceback, and these may be many threads.
            raise type(self.error)(*self.error.args)
        return self.pool

    def wait_warm(self, timeout: float) -> bool:
        until = monotonic() + timeout
        pool = self.built(timeout)
        return pool is not None and pool.wait_warm(max(0.0, until - monotonic()))

    def close(self, timeout: float) -> None:
        with self._lock:
            self.closed = True
            pool = self.pool
        if pool is not None:
            pool.close(timeout)

    def _configure(self, conn: psycopg.Connection[Any]) -> None:
        """With the first connection: ask what the server grants, and size the pool by it."""
        if self.plan is None and self.pool is not None:
            from psycopg.rows import dict_row

            conn.autocommit = True
            with conn.cursor(row_factory=dict_row) as cursor:
                row = cursor.execute(QUERY).fetchone()
            conn.autocommit = False
            self.pool.resize(*self._adopt(row))


class AsyncOpening(_Opening):
    """Opens an async pool on the running loop."""

    mode = "async"

    def __init__(self, name: str, settings: Settings) -> None:
        super().__init__(name, settings)
        from .pool.aio import AsyncGuardedPool

        self.error: PoolguardError | None = None
        self.loop = asyncio.get_running_loop()
        self.pool: AsyncGuardedPool[Any] | None = AsyncGuardedPool(
            configure=self._configure, **self._arguments()
        )
        # In an empty context: the pool's tasks are no part of the trace that is current here.
        self._opened = Context().run(asyncio.ensure_future, self.pool.open())

    @property
    def alive(self) -> bool:
        """Its loop is still there, too."""
        return super().alive and not self.loop.is_closed()

    async def wait_warm(self, timeout: float) -> bool:
        # Shielded: whoever asked first may be cancelled while others still wait for it.
        await asyncio.shield(self._opened)
        pool = self.pool
        return pool is not None and await pool.wait_warm(timeout)

    async def close(self, timeout: float) -> None:
        self.closed = True
        if self.loop.is_closed():
            self.abandon()
        elif self.pool is not None:
            await self.pool.close(timeout)

    def abandon(self) -> None:
        """Let go of a pool whose loop may be gone, where nothing of it can be awaited any more."""
        self.closed = True
        pool, self.pool = self.pool, None
        if pool is not None and not pool.closed and self.loop.is_closed():
            for seat in pool._idle_seats():
                pool._bury(seat.conn)
            pool._watch.close()

    async def _configure(self, conn: psycopg.AsyncConnection[Any]) -> None:
        """As the sync one."""
        if self.plan is None and self.pool is not None:
            from psycopg.rows import dict_row

            await conn.set_autocommit(True)
            async with conn.cursor(row_factory=dict_row) as cursor:
                row = await (await cursor.execute(QUERY)).fetchone()
            await conn.set_autocommit(False)
            await self.pool.resize(*self._adopt(row))
