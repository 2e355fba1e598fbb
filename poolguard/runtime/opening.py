"""One opening of a guard: its ledger, the pool it makes, and the plan that sizes it.

A guard that was closed may be opened again while something of its former opening still goes on (the
opening thread, a connect): each opening has an object of its own, so that none reaches into the
next.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import Context
from inspect import isawaitable
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

from ..budget.capacity import OTHERS, QUERY, Capacity
from ..budget.dialing import Dialing
from ..budget.host import HostLedger
from ..budget.ledger import (
    POOLED,
    Backend,
    Granted,
    Ledger,
    Scope,
    StaticLedger,
    Terms,
)
from ..budget.locktable import SUPPORTED
from ..budget.lone import LoneLedger
from ..budget.plan import (
    Plan,
    known_budget,
    make_plan,
    shares,
    took_the_reserve,
)
from ..budget.queries import (
    Row,
    async_row,
    async_rows,
    one_row,
    rows,
)
from ..budget.session import (
    GREETING,
    PLAIN_GREETING,
    RESTORE,
    UNSUPPORTED,
    backend_of,
)
from ..errors import (
    PlanError,
    PoolguardError,
    RuntimeDirError,
    SettingsError,
)
from ..pool.arguments import PoolArguments
from ..pool.events import Listener, Listeners
from ..settings import Settings
from ..util.clock import waitable
from ..util.conninfo import (
    checked,
    database_name,
    insist_same_place,
    ledger_name,
    located,
    of_libpq,
    parse,
    parse_keywords,
    session_of,
)
from ..util.escape import escaped
from ..util.logs import logger
from ..util.rundir import RuntimeDir
from ..worker import registry

if TYPE_CHECKING:
    import psycopg

    from ..pool.aio import AsyncGuardedPool
    from ..pool.sync import GuardedPool

__all__ = ["AsyncOpening", "SyncOpening"]


CLOSE_TIMEOUT = 5.0
"""Seconds that closing takes at most where nobody waits for it."""

Bounds = tuple[int, int]
"""A pool's min_size and max_size."""

INQUIRE_WHEN_SHORT = 5.0
"""Seconds until the server is asked again what it grants, while that is less than is needed, ..."""
INQUIRE_WHEN_MOVING = 1.0
"""The same just after it has changed: some that count yet may be closing."""
INQUIRE_CALMLY = 60.0
"""... and otherwise. Nobody tells when a limit was changed, or when others have gone."""
SIBLINGS_LEARN = 60.0
"""Seconds after a change within which a sibling that goes by less is not said to disagree."""
MOST_NAMED = 6

_process = os.getpid()
"""This process: to ask the kernel at each acquire would cost more than all else that is asked."""


def _note_process() -> None:
    global _process  # noqa: PLW0603
    _process = os.getpid()


os.register_at_fork(after_in_child=_note_process)


class _Opening:
    """What both kinds have in common: whose it is, its ledger, and from the settings to the pool's
    arguments. All decisions stand here; the two kinds below do the I/O."""

    mode: Literal["sync", "async"]
    pool: GuardedPool[Any] | AsyncGuardedPool[Any] | None

    def __init__(self, name: str, settings: Settings, given: PoolArguments) -> None:
        self.name = name
        self._given = given
        if settings.ledger != "static" and not SUPPORTED:
            logger.info(
                "poolguard %r: ledger=%s needs Linux, static is used", name, settings.ledger
            )
            settings = settings.replace(ledger="static")
        self.settings = settings
        self.closed = False
        self.holders = 0
        """Lifespans that keep it open: the last of them closes it."""
        self.by_request = False
        """The first request that needed it has opened it, and nobody closes it."""
        self.plan: Plan | None = None
        self.ledger: Ledger = StaticLedger(0)
        self.ledger_named: dict[str, str] | None = None
        """Of which kind the ledger is, and the name that those who use the same database have in
        common; None until it is made."""
        self._pid = _process
        self._asked = False
        """The server has been asked for its capacity, in this opening."""
        self._plainly = False
        """The server's platform cannot look for its clients, so it is not told to."""
        self._dialing = Dialing(settings)
        self._behind_pooler = settings.pooler in ("session", "transaction")
        self._refused = False
        """The server has lately had no room for a connection that the plan allows."""
        self._room: int | None = None
        """What this host can have at most while others leave less than the plan counts on; None
        while they do not."""
        self._room_at = 0.0
        self._moves = False
        """It was another one before."""
        self.others: list[dict[str, Any]] = []
        """Who held how many connections when the server had no room; empty once there is some."""
        self._learning_until = 0.0
        """Until then siblings may not know yet what the server grants now."""
        self._heard: tuple[Granted | None, int] | None = None
        """Which capacity and share of siblings the server was asked about last."""
        self._warned_of: int | None = None
        """The smaller share of another process that has been warned of, while it rules."""
        self._granted: Granted | None = None
        self._shares: tuple[int | None, int | None, int | None] = (None, None, None)
        self._warned_of_silence = False
        self._left: dict[str, Any] = {}
        """What a pool that was given up has counted."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}{' closed' if self.closed else ''}>"

    @property
    def here(self) -> bool:
        """It is this process' own, and not that of the parent which forked it."""
        return self._pid == _process

    @property
    def alive(self) -> bool:
        """It is this process' own, and not closed."""
        return self.here and not self.closed

    def pool_status(self) -> dict[str, Any]:
        """What the pool has and has counted, also once it is closed; empty before there is one."""
        pool = self.pool
        return self._left if pool is None else pool.status()

    @property
    def share(self) -> int | None:
        """The connections that this host may hold to this database; None until there is a plan.

        Where other databases of the server are used here, too, it is what the processes of this one
        have a right to while those want the rest.
        """
        if self.plan is None:
            return None
        part = self.ledger.part if self.settings.ledger != "static" else None
        return self.plan.instance if part is None else min(self.plan.instance, part)

    def _listener(self) -> Listener:
        """Who is told of the pool's events."""
        from ..telemetry.spans import SpanListener

        spans = SpanListener(self.settings.spans)
        if self.settings.metrics == "off":
            return spans
        from ..telemetry.durations import MetricListener, UseListener

        durations = UseListener() if self.settings.metrics == "all" else MetricListener()
        return Listeners([spans, durations])

    def _measure(self) -> None:
        """There is a pool: have its metrics read from now on."""
        if self.settings.metrics != "off":
            from ..telemetry.durations import look
            from ..telemetry.figures import watch

            watch(self)
            look()

    def _arguments(self) -> dict[str, Any]:
        """What the pool is made with, but for its callbacks."""
        s = self.settings
        if isinstance(s.dsn, str):
            parse(s.dsn, s.source("dsn"))
        if isinstance(self._given.kwargs, Mapping):
            parse_keywords(self._given.kwargs, self._connection_class())
        # Where the budget follows the server's capacity, and nobody has asked it yet, one
        # connection does so before there are others.
        plan = self._plan_at_once()
        self.ledger = self._new_ledger()
        if plan is None:
            plan = self._plan_as_published()
        floor, max_size = (1, 1) if plan is None else self._agree(plan)
        self.ledger.on_change(self._learn)
        return {
            "conninfo": self._conninfo(),
            "kwargs": self._connect_arguments(),
            "connection_class": self._connection_class(),
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
            "listener": self._listener(),
            "max_connecting": s.max_connecting,
            "check_interval": s.check_interval,
            "check_timeout": s.check_timeout,
            "check_after_idle": s.check_after_idle,
            "leak_after": s.leak_after,
            "at_once": registry.workplace().most_at_once,
        }

    def _conninfo(self) -> str | Callable[[], Any]:
        dsn = self.settings.dsn
        if not callable(dsn):
            return dsn or ""
        theirs = self._given.kwargs
        return self._dialing.completing(
            checked(dsn, self.settings.source("dsn")),
            of_libpq(theirs) if isinstance(theirs, Mapping) else {},
        )

    def _connection_class(self) -> type[Any]:
        import psycopg

        of_kind = psycopg.Connection if self.mode == "sync" else psycopg.AsyncConnection
        return self._given.connection_class or of_kind

    def _connect_arguments(self) -> dict[str, Any] | Callable[[], Any]:
        """The keywords of each connect: the application's, and what they say nothing of."""
        theirs = self._given.kwargs
        if not callable(theirs):
            return self._keywords(theirs or {})
        ask = theirs

        def kwargs() -> Any:
            answer = ask()
            if self.mode == "async" and isawaitable(answer):
                return self._later(answer)
            return self._answered(answer)

        return kwargs

    async def _later(self, answer: Any) -> dict[str, Any]:
        return self._answered(await answer)

    def _answered(self, answer: Any) -> dict[str, Any]:
        if not isinstance(answer, Mapping) or not all(isinstance(name, str) for name in answer):
            raise SettingsError(
                f"keyword kwargs: the callable has returned <{type(answer).__name__}>, where a "
                f"dict of keyword arguments for psycopg's connect() belongs"
            )
        parse_keywords(answer, self._connection_class())
        insist_same_place(self.settings.dsn, answer)
        return self._keywords(answer)

    def _keywords(self, theirs: Mapping[str, Any]) -> dict[str, Any]:
        dsn, libpqs = self.settings.dsn, of_libpq(theirs)
        if callable(dsn):  # its answers are complete but for what overrules them
            ours = self._dialing.joined(str(libpqs["options"])) if "options" in libpqs else {}
        else:
            ours = self._dialing.beside(dsn or "", libpqs)
        return {"fallback_application_name": "poolguard", **theirs, **ours}

    def _dial_again(self, error: BaseException) -> bool:
        """Whether a connect that has failed with *error* may be tried again at once."""
        before = self._dialing.options
        again = self._dialing.refused(error)
        self._note_options(before)
        return again

    def _note_options(self, before: str) -> None:
        if self.pool is not None and before != self._dialing.options:
            self.pool.kwargs = self._connect_arguments()

    # -- ledger and plan -----------------------------------------------------------------------

    def _new_ledger(self) -> Ledger:
        s = self.settings
        dsn = located(s.dsn, self._given.kwargs)
        self.ledger_named = {"kind": s.ledger, "name": database_name(dsn, self.name)}
        if s.ledger == "static":
            return StaticLedger(1)
        workers = registry.workplace().workers if s.workers == "auto" else s.workers
        name = ledger_name(dsn, self.name)
        try:
            folder = RuntimeDir(s.runtime_dir)
            try:
                database, role = session_of(dsn)
                if callable(self._given.kwargs):
                    role = ""  # it may name another one at each connect
                return HostLedger(folder, name, workers=workers, scope=Scope.of(database, role))
            except BaseException:
                folder.close()
                raise
        except RuntimeDirError as error:
            logger.warning(
                "poolguard %r: %s. Until this process is started again it shares nothing, and "
                "holds no more than an equal part of the budget",
                self.name,
                error,
            )
        self.ledger_named["kind"] = "static"
        return LoneLedger(s.runtime_dir, name, workers=workers)

    def _plan_at_once(self) -> Plan | None:
        """The plan where it does not depend on the server."""
        if known_budget(self.settings) is None and not self._behind_pooler:
            return None
        return self._planned(None)

    def _plan_as_published(self) -> Plan | None:
        """The plan by what a sibling has learned from the server, if one has."""
        published = self.ledger.published
        if published is None or published.server is None or self._behind_pooler:
            return None
        try:
            return self._planned(Capacity(published.server, published.role, published.database))
        except PlanError:
            return None  # our own question to the server will tell it, and is asked again

    def _planned(self, capacity: Capacity | None, *, pooled: bool = False) -> Plan:
        pooler: Literal["session", "transaction"] | None = None
        if pooled or self._behind_pooler:
            pooler = "session" if self.settings.pooler == "session" else "transaction"
        plan = make_plan(
            capacity, self.settings, registry.workplace(), pooler=pooler, runs=self._runs
        )
        self._shares = shares(plan, capacity, self.settings)
        self._granted = capacity and Granted(capacity.server, capacity.role, capacity.database)
        return plan

    @property
    def _runs(self) -> bool:
        """The service runs, and is not stopped by a server that grants less than it did."""
        if registry.runs or self.plan is not None:
            return True
        published, share = self.ledger.published, self.ledger.limit
        known = None if published is None else published.least
        if known is None or share is None or known_budget(self.settings) is not None:
            return False
        return took_the_reserve(known, share, self.settings)

    def _agree(self, plan: Plan) -> Bounds:
        """Go by this plan from now on."""
        self.plan = plan  # before the ledger calls back, which must not begin this anew
        room = self._room  # once: another thread may find another one meanwhile
        own = self._share(plan, room)
        # What binds less than the plan does is not what others have left too little of.
        each = (n if n is None or n > plan.instance else own for n in self._shares)
        terms = Terms(self._as_left(room), own, plan.workers, plan.floor, *each)
        self._note_ruling(self.ledger.agree(terms).instance)
        return plan.floor, plan.max_size

    @staticmethod
    def _share(plan: Plan, room: int | None) -> int:
        """What of the plan's share a host can have that has *room* for so many."""
        return plan.instance if room is None else min(plan.instance, room)

    def _as_left(self, room: int | None) -> Granted | None:
        """What the server grants, as far as others leave it; None where nobody has asked."""
        return self._granted if room is None else (self._granted or Granted(None)).within(room)

    def _note_ruling(self, share: int) -> None:
        """Warn once while another process' smaller *share* rules."""
        plan = self.plan
        leaves = self.pool is not None and self.pool.leaving
        if plan is None or leaves or share >= self._share(plan, self._room):
            self._warned_of = None
        elif self._is_news(self.ledger.published) or monotonic() < self._learning_until:
            return  # it is not by its settings that the other has less
        elif share != self.ledger.limit:
            return  # it has just changed, and that is told of again
        elif share != self._warned_of:
            self._warned_of = share
            logger.warning(
                "poolguard %r: another process on this host goes by a share of %s connections, and "
                "this one by %s: the smaller rules until that process ends",
                self.name,
                share,
                plan.instance,
            )

    def _learn(self) -> None:
        """The ledger's callback: a sibling may have come, gone, or learned the server's capacity
        before us."""
        if not self.alive:
            return
        if self.plan is None:
            plan = self._plan_as_published()
            if plan is not None:
                self._resize_soon(self._agree(plan))
        elif (share := self.ledger.limit) is not None:
            heard = (self.ledger.published, share)
            if heard != self._heard and self._is_news(heard[0]) and self.pool is not None:
                self.pool.inquire_after(0.0)
            self._heard = heard
            if share >= self._share(self.plan, self._room) or not self._has_own_part:
                self._note_ruling(share)

    @property
    def _has_own_part(self) -> bool:
        """Its limit is less than the share, and no other process' plan is the reason."""
        return self.settings.ledger == "static" or self.ledger.parted

    def _is_news(self, published: Granted | None) -> bool:
        """Whether siblings have learned something of the server that is not known here."""
        if self.plan is None or published is None:
            return False
        known = self._as_left(self._room)
        if known is None:  # the budget is a number, and of interest only what grants less
            return published.least is not None and published.least < self.plan.instance
        return any(None not in (a, b) and a != b for a, b in zip(published, known, strict=True))

    def _resize_soon(self, bounds: Bounds) -> None:
        raise NotImplementedError

    # -- a new connection ----------------------------------------------------------------------

    def _must_ask(self, *, recovering: bool) -> bool:
        """Whether the new connection is to ask for the capacity: the first one, and the first
        after an outage, in which the server may have been given another configuration, or after the
        server had no room."""
        if self._behind_pooler:
            return False
        first = known_budget(self.settings) is None and not self._asked
        return first or (recovering and (self._refused or known_budget(self.settings) is None))

    def _has_a_plan(self, error: Exception) -> bool:
        """Whether a connection is of use that could not be asked: siblings have told the capacity.
        The next one is asked again."""
        if self.plan is None:
            return False
        if not self._warned_of_silence:
            logger.warning(
                "poolguard %r: the server does not tell what it grants (%s); the plan follows what "
                "it has told other processes",
                self.name,
                type(error).__name__,
            )
        self._warned_of_silence = True
        return True

    def _adopt(self, row: Mapping[str, Any]) -> Bounds:
        """Make the plan from what the server grants."""
        capacity = Capacity.from_row(row)
        plan = self.plan
        if plan is None or known_budget(self.settings) is None:
            plan = self._planned(capacity)
        known = self.plan and (self.plan.capacity, self.plan.short)
        changed = known != (plan.capacity, plan.short)
        told = self.ledger.published
        published = None if told is None else told.least
        if self._refused or (changed and (self._asked or published not in (None, plan.capacity))):
            self._learning_until = monotonic() + SIBLINGS_LEARN
        if changed and published != plan.capacity:
            for warning in plan.warnings:  # said by whoever is the first to know
                logger.warning("poolguard %r: %s", self.name, warning)
        self._asked = True
        self._note_room(plan, self.ledger.standing + (capacity.free_now or 0))
        return self._agree(plan)

    def _note_room(self, plan: Plan, room: int) -> None:
        """This host can have so many connections: of interest where others leave less than our
        share, and only once that was felt. Others come and go."""
        limit = self.ledger.limit
        short = self._refused or (limit is not None and limit < plan.instance)
        before, self._room = self._room, None
        if short and room < plan.instance and not self._has_own_part:
            self._room = max(1, room)
        self._moves = self._room != before
        self._room_at = monotonic()
        if self._moves:
            self._learning_until = self._room_at + SIBLINGS_LEARN
        if self._room is None:
            self._refused, self.others = False, []

    def _when_refused(self) -> None:
        """The pool's callback: the server had no room for a connection that the plan allows."""
        self._refused = True
        plan = self.plan
        if plan is None or self._has_own_part or not self.alive:
            return
        before = self._share(plan, self._room)
        # A guess, until the server has been asked. What siblings have given up for this connect may
        # not be free at the server yet, so the guess leaves one to each.
        self._note_room(plan, max(self.ledger.standing, self.ledger.sharers))
        if self._share(plan, self._room) != before:
            self._agree(plan)

    def _when_voiceless(self) -> None:
        """The pool's callback: there is no connection to ask with, so that it has to be tried."""
        if self.pool is not None and self.alive and self._room is not None:
            self._room = None
            self.pool.inquired(has_room=True, again=INQUIRE_WHEN_SHORT)
            if self.plan is not None:
                self._agree(self.plan)

    def _until_next(self) -> float | None:
        """Seconds until the server is to be asked again; None where it need not be."""
        if self._room is not None and self._moves:
            return INQUIRE_WHEN_MOVING
        if self._room is not None or (self.plan is not None and self.plan.short):
            return INQUIRE_WHEN_SHORT
        if self._behind_pooler or known_budget(self.settings) is not None:
            return None
        return INQUIRE_CALMLY * random.uniform(0.8, 1.0)

    def _forget_room(self) -> Bounds:
        """What a pooler has room for is found out by trying."""
        if monotonic() >= self._room_at + INQUIRE_WHEN_SHORT:
            self._room = None
        return (1, 1) if self.plan is None else self._agree(self.plan)

    def _note_asked(self, pool: GuardedPool[Any] | AsyncGuardedPool[Any], *, told: bool) -> None:
        """The server was asked, and has *told* what it grants or not: when to ask it again."""
        pool.inquired(has_room=told and self._room is None, again=self._until_next())

    def _note_others(self, told: Sequence[Row]) -> None:
        """Who else holds how many connections, while they leave less than our share."""
        known, self.others = self.others, [dict(each) for each in told]
        if known or self.plan is None:
            return
        named = ", ".join(
            f"{each['connections']} of {each['role']}"
            + (f" ({each['application']})" if each["application"] else "")
            for each in self.others[:MOST_NAMED]
        )
        logger.warning(
            "poolguard %r: the server has room for %s connections of this host, whose share is %s. "
            "All sessions there: %s. Have others hold fewer, or raise what the server grants",
            self.name,
            self._room,
            self.plan.instance,
            escaped(named),
        )

    def _welcome(self, conn: Any, row: Mapping[str, Any]) -> Backend:
        """Judge a new connection by what it was told when it was greeted."""
        if self.settings.pooler == "none":
            self._dialing.succeeded(pooled=False)
            return Backend(row["pid"], row["started"])
        backend = backend_of(row, conn.info.backend_pid)
        if self.settings.pooler != "auto":
            backend = POOLED  # some poolers tell their clients the server's pid
        before = self._dialing.options
        self._dialing.succeeded(pooled=backend == POOLED)
        self._note_options(before)
        if backend == POOLED:
            if not self._behind_pooler:
                # Raises, each time, where the budget was to follow the server's capacity.
                self._agree(self._planned(None, pooled=True))
                self._behind_pooler = True
            if self.settings.pooler != "session":
                conn.prepare_threshold = None  # the next statement may be another server's
        return backend

    @staticmethod
    def _is_amid(conn: Any) -> bool:
        """A transaction is open there, and has not failed."""
        from psycopg.pq import TransactionStatus

        return bool(conn.pgconn.transaction_status == TransactionStatus.INTRANS)

    def _insist_on_its_end(self, conn: Any) -> None:
        """Refuse a connection on which ``configure`` has left a transaction open, as psycopg_pool
        does: what it has set would go with that. The pool's own refusal is tried again; this one is
        the application's mistake, and fails the warmup at once."""
        from psycopg.pq import TransactionStatus

        if (status := TransactionStatus(conn.pgconn.transaction_status)) != TransactionStatus.IDLE:
            raise PoolguardError(
                f"the guard's configure has left its connection in the status {status.name}: have "
                f"it end with commit(), or work in autocommit mode"
            )

    def _greeting(self, conn: Any) -> tuple[str, dict[str, Any]]:
        if self._plainly or self._behind_pooler:
            return PLAIN_GREETING, {}
        restore = RESTORE if self._dialing.options else ""
        return restore + GREETING, {"login_pid": conn.info.backend_pid}


class SyncOpening(_Opening):
    """Opens a sync pool in a thread: ``post_fork`` must wait neither for a connect nor for the
    import of psycopg."""

    mode = "sync"

    def __init__(self, name: str, settings: Settings, given: PoolArguments) -> None:
        super().__init__(name, settings, given)
        self.pool: GuardedPool[Any] | None = None
        self.error: PoolguardError | None = None
        """What made opening impossible."""
        self.usable: GuardedPool[Any] | None = None
        """The pool once it was opened: there is nothing to wait for any more, and no error."""
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
            from ..pool.sync import GuardedPool

            pool = GuardedPool(
                configure=self._configure,
                reset=self._given.reset,
                check=self._given.check,
                **self._arguments(),
            )
            pool.dial_again = self._dial_again
            pool.attend(self._inquire, self._when_refused, self._when_voiceless)
            with self._lock:
                if self.closed:
                    self.ledger.close()
                else:
                    self.pool = pool
                    self._measure()
                    pool.open()
                    self.usable = pool
        except PoolguardError as error:
            self.error = error
            # Raised to whoever waits for the pool or wants to use it: those will say it.
            logger.debug("poolguard %r cannot open: %s", self.name, error)
        except Exception as error:
            self.error = PoolguardError(f"poolguard {self.name!r} cannot open: {error!r}")
            logger.exception("poolguard %r cannot open", self.name)
        finally:
            if self.error is not None:
                self.ledger.close()
            self._built.set()

    def built(self, timeout: float) -> GuardedPool[Any] | None:
        """The pool, once there is one; None after *timeout* seconds, or when it was closed before.

        Raises what made opening impossible.
        """
        if not (self._built.is_set() or (timeout > 0 and self._built.wait(waitable(timeout)))):
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

    def close_soon(self) -> None:
        """Close it beside whoever calls this."""
        threading.Thread(target=self.close, args=(CLOSE_TIMEOUT,), daemon=True).start()

    def _resize_soon(self, bounds: Bounds) -> None:
        if self.pool is not None:
            self.pool.resize(*bounds)

    def _configure(self, conn: psycopg.Connection[Any]) -> None:
        """Greet a new connection; have the first one ask for the capacity, and size the pool. Then
        it is the application's."""
        pool = self.pool
        if pool is None:
            return
        if self._is_amid(conn):  # by the application's class, as it connected
            conn.commit()
        pool.greeted(conn, self._welcome(conn, self._greet(conn)))
        if self._must_ask(recovering=pool.recovering):
            self._ask(pool, conn)
        if self._given.configure is not None:
            self._given.configure(conn)
            self._insist_on_its_end(conn)

    def _inquire(self, conn: psycopg.Connection[Any]) -> None:
        """The pool's callback: ask over an idle connection what the server grants now."""
        if (pool := self.pool) is not None:
            self._ask(pool, conn)

    def _ask(self, pool: GuardedPool[Any], conn: psycopg.Connection[Any]) -> None:
        try:
            if self._behind_pooler:
                bounds = self._forget_room()
            else:
                bounds = self._adopt(one_row(conn, QUERY))
                if self._room is not None:
                    self._note_others(rows(conn, OTHERS))
        except _errors() as error:
            if conn.broken or not self._has_a_plan(error):
                raise
            self._note_asked(pool, told=False)
        else:
            self._note_asked(pool, told=True)
            pool.resize(*bounds)

    def _greet(self, conn: psycopg.Connection[Any]) -> Mapping[str, Any]:
        try:
            return one_row(conn, *self._greeting(conn))
        except _errors() as error:
            if error.sqlstate != UNSUPPORTED:
                raise
        self._plainly = True
        return one_row(conn, PLAIN_GREETING)


class AsyncOpening(_Opening):
    """Opens an async pool on the running loop."""

    mode = "async"

    def __init__(self, name: str, settings: Settings, given: PoolArguments) -> None:
        super().__init__(name, settings, given)
        from ..pool.aio import AsyncGuardedPool
        from ..pool.jobs import at_once

        self.error: PoolguardError | None = None
        self.loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self.pool: AsyncGuardedPool[Any] | None = None
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself would let a task go
        try:
            self.pool = AsyncGuardedPool(
                configure=self._configure,
                reset=self._given.reset,
                check=self._given.check,
                **self._arguments(),
            )
            self.pool.dial_again = self._dial_again
            self.pool.attend(self._inquire, self._when_refused, self._when_voiceless)
        except BaseException:
            self.ledger.close()
            raise
        self._measure()
        # In an empty context: the pool's tasks are no part of the trace that is current here. At
        # once, so that it is open when this returns: opening a pool only begins tasks.
        Context().run(at_once, self.pool.open())

    @property
    def alive(self) -> bool:
        """Its loop is still there, too."""
        return super().alive and not self.loop.is_closed()

    @property
    def usable(self) -> AsyncGuardedPool[Any] | None:
        """The pool where its loop runs: in this thread, where no other can at the same time. (To
        ask which loop runs costs more, where Python is older than 3.12.)"""
        here = threading.get_ident() == self._thread and self.loop.is_running()
        return self.pool if here else None

    async def wait_warm(self, timeout: float) -> bool:
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
        pool = self.pool
        if pool is not None:
            if self.loop.is_closed():
                pool.abandon()
            self._left, self.pool = pool.status(), None

    def close_soon(self) -> None:
        """Close it beside whoever calls this."""
        self._soon(lambda: self.close(CLOSE_TIMEOUT))

    def _resize_soon(self, bounds: Bounds) -> None:
        if (pool := self.pool) is not None:
            self._soon(lambda: pool.resize(*bounds))

    def _soon(self, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """From any thread: begin a task on its loop."""

        def begin() -> None:
            task = self.loop.create_task(job())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self.loop.call_soon_threadsafe(begin)

    async def _configure(self, conn: psycopg.AsyncConnection[Any]) -> None:
        """As the sync one."""
        pool = self.pool
        if pool is None:
            return
        if self._is_amid(conn):
            await conn.commit()
        pool.greeted(conn, self._welcome(conn, await self._greet(conn)))
        if self._must_ask(recovering=pool.recovering):
            await self._ask(pool, conn)
        if (configure := self._given.configure) is not None:
            from ..pool.jobs import done

            await done(configure(conn))
            self._insist_on_its_end(conn)

    async def _inquire(self, conn: psycopg.AsyncConnection[Any]) -> None:
        """As the sync one."""
        if (pool := self.pool) is not None:
            await self._ask(pool, conn)

    async def _ask(self, pool: AsyncGuardedPool[Any], conn: psycopg.AsyncConnection[Any]) -> None:
        try:
            if self._behind_pooler:
                bounds = self._forget_room()
            else:
                bounds = self._adopt(await async_row(conn, QUERY))
                if self._room is not None:
                    self._note_others(await async_rows(conn, OTHERS))
        except _errors() as error:
            if conn.broken or not self._has_a_plan(error):
                raise
            self._note_asked(pool, told=False)
        else:
            self._note_asked(pool, told=True)
            await pool.resize(*bounds)

    async def _greet(self, conn: psycopg.AsyncConnection[Any]) -> Mapping[str, Any]:
        try:
            return await async_row(conn, *self._greeting(conn))
        except _errors() as error:
            if error.sqlstate != UNSUPPORTED:
                raise
        self._plainly = True
        return await async_row(conn, PLAIN_GREETING)


def _errors() -> type[psycopg.Error]:
    from psycopg import Error

    return Error
