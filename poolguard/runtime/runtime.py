"""What a guard is while it is open: its plan, its ledger, and the pool that they size.

A guard that was closed may be opened again while something of its former runtime still goes on (the
opening thread, a connect): each opening has an object of its own, so that none reaches into the
next.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from inspect import signature
from typing import TYPE_CHECKING, Any

from ..budget.host.sharedfile import SUPPORTED
from ..budget.ledger import Ledger
from ..budget.plan import Plan
from ..budget.queries import async_rows, rows
from ..errors import PoolguardError
from ..pool.arguments import PoolArguments
from ..pool.events import Listener, Listeners
from ..settings import VARIABLES, Kind, Settings
from ..util.logs import logger
from ..worker import context
from .connecting import Connecting
from .greeting import Greeting
from .memory import GuardMemory, open_memory
from .sizing import Bounds, Sizing

if TYPE_CHECKING:
    from ..budget.fleet.ledger import FleetLedger
    from ..pool.aio import AsyncGuardedPool
    from ..pool.jobs import Job
    from ..pool.sync import GuardedPool

__all__ = ["BUILD_TIMEOUT", "CLOSE_TIMEOUT", "Runtime"]

POOLS_NAMES = {"acquire_timeout": "timeout", "idle_timeout": "max_idle"}
"""What psycopg_pool calls a setting otherwise."""
BUILD_TIMEOUT = 30.0
"""Seconds that is waited for the opening thread, which plans and reads the ledger."""
CLOSE_TIMEOUT = 5.0
"""Seconds that closing takes at most where nobody waits for it."""

_process = os.getpid()
"""This process: to ask the kernel at each acquire would cost more than all else that is asked."""


def _note_process() -> None:
    global _process  # noqa: PLW0603
    _process = os.getpid()


os.register_at_fork(after_in_child=_note_process)


class Runtime:
    """One opening of a guard, of either kind: ``sync.py`` and ``aio.py`` differ in what runs the
    I/O."""

    mode: Kind
    pool: GuardedPool[Any] | AsyncGuardedPool[Any] | None = None
    error: PoolguardError | None = None
    """What made opening impossible."""
    memory: GuardMemory | None = None
    """What knows by earlier days what will be needed."""

    def __init__(self, name: str, settings: Settings, given: PoolArguments) -> None:
        if settings.ledger != "static" and not SUPPORTED:
            logger.info(
                "poolguard %r: ledger=%s needs Linux, static is used", name, settings.ledger
            )
            settings = settings.replace(ledger="static", ledger_dsn=None, ledger_label=None)
        self.name = name
        self.settings = settings
        self.closed = False
        self.holders = 0
        """Lifespans that keep it open: the last of them closes it."""
        self.by_request = False
        """The first request that needed it has opened it, and nobody closes it."""
        self._given = given
        self._pid = _process
        self._connecting = Connecting(self.mode, settings, given, self._use_other_keywords)
        self.sizing = Sizing(name, settings, given, lambda: self.alive, self._resize_soon)
        self._rows = rows if self.mode == "sync" else async_rows
        self.greeting = Greeting(self.sizing, self._connecting, given, self._rows)
        self._left: dict[str, Any] = {}
        """What a pool that was given up has counted."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}{' closed' if self.closed else ''}>"

    # -- what others read ----------------------------------------------------------------------

    @property
    def here(self) -> bool:
        """It is this process' own, and not that of the parent which forked it."""
        return self._pid == _process

    @property
    def alive(self) -> bool:
        """It is this process' own, and not closed."""
        return self.here and not self.closed

    @property
    def plan(self) -> Plan | None:
        """Who gets how many connections; None until that is known."""
        return self.sizing.plan

    @property
    def ledger(self) -> Ledger:
        """Who holds which slot of the budget."""
        return self.sizing.ledger

    @property
    def fleet(self) -> FleetLedger | None:
        """The same where many hosts share the budget; else None."""
        if self.settings.ledger != "fleet":
            return None
        from ..budget.fleet.ledger import FleetLedger  # most processes need nothing of it

        ledger = self.sizing.ledger
        return ledger if isinstance(ledger, FleetLedger) else None

    def pool_status(self) -> dict[str, Any]:
        """What the pool has and has counted, also once it is closed; empty before there is one."""
        pool = self.pool
        return self._left if pool is None else pool.status()

    # -- making the pool -----------------------------------------------------------------------

    def _assembled(self, kind: type[Any], begin: Callable[[Job[None]], Any]) -> Any:
        """The pool, with all that it follows from. It is not open yet.

        :param begin: runs one of the guard's coroutines, or has it awaited.

        Raises :exc:`~poolguard.errors.PoolguardError` where the settings cannot work.
        """

        def over(question: Callable[[Any, Any], Job[None]]) -> Callable[[Any], Any]:
            """What the pool calls with a connection that the server is to be asked over."""

            def ask(conn: Any) -> Any:
                return None if self.pool is None else begin(question(self.pool, conn))

            return ask

        self._connecting.check()
        floor, max_size = self.sizing.begin()  # settings → plan → ledger → bounds
        own = {  # these go before settings of the same name: the plan's, not what was asked for
            "name": self.name,
            "open": False,
            "min_size": floor,
            "max_size": max_size,
            "ledger": self.sizing.ledger,
            "listener": _listeners(self.settings, self._given.listener),
            "at_once": context.current().workplace.most_at_once,
            "configure": over(self.greeting.welcome),
            "reset": self._given.reset,
            "check": self._given.check,
            "reconnect_timeout": math.inf,
            "num_workers": 1,
        }
        pool = kind(**_settings_for(kind, self.settings) | self._connect_arguments() | own)
        pool.dial_again = self._connecting.refused
        pool.attend(
            over(self.greeting.inquire),
            over(self.greeting.introduce),
            self.sizing.when_refused,
            self.sizing.when_voiceless,
        )
        self.memory = open_memory(self.name, self.settings, self._given.kwargs, self._rows)
        self.greeting.memory = self.memory
        if self.memory is not None:
            pool.recall_by(self.memory)
        return pool

    def _let_go(self) -> None:
        """There will be no pool that does so in the end."""
        self.ledger.close()
        if self.memory is not None:
            self.memory.close()

    def _connect_arguments(self) -> dict[str, Any]:
        connecting = self._connecting
        return {
            "conninfo": connecting.conninfo(),
            "kwargs": connecting.keywords(),
            "connection_class": connecting.connection_class(),
        }

    def adopt(self, given: PoolArguments) -> None:
        """Connect by *given* from now on, and have it configure what connects."""
        self.built(BUILD_TIMEOUT)  # a thread may be about to make the pool by the former ones
        self._given = given
        self._connecting.adopt(given)
        self.greeting.adopt(given)
        if self.pool is not None:
            self.pool.kwargs = self._connecting.keywords()
            self.pool.connection_class = self._connecting.connection_class()

    def _use_other_keywords(self) -> None:
        if self.pool is not None:
            self.pool.kwargs = self._connecting.keywords()

    def _have(self, pool: Any) -> None:
        """There is a pool: from now on it is resized, and its metrics are read."""
        self.pool = self.sizing.pool = pool
        if self.settings.metrics != "off":
            from ..telemetry.durations import look
            from ..telemetry.figures import watch

            watch(self)
            look()

    def _resize_soon(self, bounds: Bounds) -> None:
        raise NotImplementedError

    # -- what the other kind does --------------------------------------------------------------

    ended = False
    """Its event loop was closed under it."""

    @property
    def usable(self) -> GuardedPool[Any] | AsyncGuardedPool[Any] | None:
        """The pool where it can be used at once, here; None where there is something to wait for,
        or to refuse."""
        raise NotImplementedError

    def built(self, timeout: float) -> GuardedPool[Any] | AsyncGuardedPool[Any] | None:
        """The pool, once there is one; None after *timeout* seconds, or when it was closed before.

        Raises what made opening impossible.
        """
        raise NotImplementedError

    def is_elsewhere(self) -> bool:
        """Whether it is on another event loop than the one that runs here, if one does."""
        return False

    def shut(self, timeout: float) -> None:
        """Close it, as far as nothing has to be awaited, within *timeout* seconds."""
        raise NotImplementedError

    def close_soon(self) -> None:
        """Close it in the background."""
        raise NotImplementedError


def _settings_for(kind: type[Any], settings: Settings) -> dict[str, Any]:
    """The settings that a pool of that *kind* takes, by the names that it has for them."""
    taken = signature(kind).parameters.keys()
    names = {POOLS_NAMES.get(name, name): name for name in VARIABLES}
    return {theirs: getattr(settings, ours) for theirs, ours in names.items() if theirs in taken}


def _listeners(settings: Settings, given: Listener | None) -> Listener:
    """All that is told of the pool's events."""
    from ..telemetry.spans import SpanListener

    told: list[Listener] = [SpanListener(settings.spans)]
    if given is not None:
        told.append(given)
    if settings.metrics != "off":
        from ..telemetry.durations import MetricListener, UseListener

        told.append(UseListener() if settings.metrics == "all" else MetricListener())
    return Listeners(told)
