"""A sync pool while it is open. A thread opens it."""

from __future__ import annotations

import threading
from contextvars import Context
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..errors import PoolguardError
from ..pool.arguments import PoolArguments
from ..settings import Settings
from ..util.clock import waitable
from ..util.logs import logger
from .runtime import CLOSE_TIMEOUT, Runtime
from .sizing import Bounds

if TYPE_CHECKING:
    from ..pool.sync import GuardedPool

__all__ = ["SyncRuntime"]


class SyncRuntime(Runtime):
    """Opens a sync pool in a thread: nobody waits for what the plan and the ledger take."""

    mode = "sync"
    pool: GuardedPool[Any] | None
    usable: GuardedPool[Any] | None = None
    """The pool once it was opened: there is nothing to wait for any more, and no error."""

    def __init__(self, name: str, settings: Settings, given: PoolArguments) -> None:
        super().__init__(name, settings, given)
        self._built = threading.Event()
        # Reentrant: a signal's handler may close what the thread it interrupts is about to close.
        self._lock = threading.RLock()

    def begin(self) -> None:
        """Start the thread. Raises :exc:`RuntimeError` where the process may have no more."""
        # Here, though it takes a while: the application may import a part of psycopg just when the
        # thread imports all of it. Each would wait for what the other has begun, and Python lets
        # one go on with what is half imported.
        import_module("poolguard.pool.sync")
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
            from ..pool.jobs import at_once
            from ..pool.sync import GuardedPool

            pool = self._assembled(GuardedPool, at_once)
            with self._lock:
                if self.closed:
                    self._let_go()
                else:
                    self._have(pool)
                    pool.open()
                    self.usable = pool
        except PoolguardError as error:
            self.error = error
            # It is raised to each caller that waits for the pool or wants to use it.
            logger.debug("poolguard %r cannot open: %s", self.name, error)
        except Exception as error:
            self.error = PoolguardError(f"poolguard {self.name!r} cannot open: {error!r}")
            logger.exception("poolguard %r cannot open", self.name)
        finally:
            if self.error is not None:
                self._let_go()
            self._built.set()

    def built(self, timeout: float) -> GuardedPool[Any] | None:
        if not (self._built.is_set() or (timeout > 0 and self._built.wait(waitable(timeout)))):
            return None
        if self.error is not None:
            # A new one each time: raising adds to a traceback, and these may be many threads.
            raise type(self.error)(*self.error.args)
        return self.pool

    def wait_warm(self, timeout: float) -> bool:
        """Wait at most *timeout* seconds until the floor is reached; true when it has been."""
        until = monotonic() + timeout
        pool = self.built(timeout)
        return pool is not None and pool.wait_warm(max(0.0, until - monotonic()))

    def shut(self, timeout: float) -> None:
        with self._lock:
            self.closed = True
            pool = self.pool
        if pool is not None:
            pool.close(timeout)

    def close_soon(self) -> None:
        threading.Thread(target=self.shut, args=(CLOSE_TIMEOUT,), daemon=True).start()

    def _resize_soon(self, bounds: Bounds) -> None:
        if self.pool is not None:
            self.pool.resize(*bounds)
