"""A guard whose database is a stand-in, for as long as a block lasts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from inspect import isawaitable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import PoolguardError, SettingsError
from ..pool.waiter import Waiter
from ..runtime.aio import AsyncRuntime
from ..runtime.guards import Guard
from ..runtime.lookup import guard
from ..runtime.status import not_warm
from ..util import clock
from ..util.conninfo import of_libpq
from ..worker import registry
from .listening import RecordingListener
from .script import Results
from .server import FakePostgres

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FakedGuard", "fake"]

SIZE = 4
"""Connections, unless it is said otherwise."""
OPENS_WITHIN = 10.0
"""Seconds in which a pool is warm: nothing but this process has to answer."""
OURS_TO_KEEP = frozenset({"application_name", "options"})
"""What libpq is told that does not say where the database is."""
_FIXED: Mapping[str, Any] = {
    **dict.fromkeys(("dsn", "budget", "reserve", "runtime_dir")),
    **{"instances": 1, "workers": 1, "ledger": "static", "pooler": "none"},
}
"""Settings that are the same in every block, or not for a test to choose."""
_STATE = ("settings", "arguments", "from_environment", "retired", "_runtime")
"""What of a guard is another within the block."""


def fake(
    of: Guard | str = "default",
    results: Results | None = None,
    *,
    opens: bool = True,
    **settings: Any,
) -> FakedGuard:
    """A stand-in for the database of a guard: ``with fake(results={…}) as db``, or ``async with``.

    :param of: the guard, or its name.
    :param results: what queries are answered with, as by :meth:`FakePostgres.on`.
    :param opens: whether the block opens the guard and waits until it is warm. False leaves that to
        the application, as where its lifespan does it, on a loop of its own.
    :param settings: replaces these settings of the guard's (:class:`poolguard.settings.Settings`).
        Unless given, ``max_size`` is 4, and ``floor`` is as much.

    Within the block the guard has a pool of its own kind, and of the real code, over connections of
    psycopg's to a :class:`FakePostgres`. Its callbacks, ``connection_class`` and ``kwargs`` are the
    application's, except for what says where the database is. At the end that pool is closed, and
    the guard is as it was before: open, if it was.

    The guard has to exist: import the application first. Raises
    :exc:`~poolguard.errors.SettingsError` where there is none of that name, or for a setting that
    cannot be, when it is entered; and :exc:`~poolguard.errors.PoolguardError` where the pool does
    not become warm: if ``configure`` sends a query that is not scripted, it does not.
    """
    return FakedGuard(of, results, opens=opens, settings=settings)


class FakedGuard(FakePostgres):
    """What :func:`fake` enters: the stand-in for the server, and the guard that uses it."""

    guard: Guard
    """The guard whose database this is; from the beginning of the block on."""
    events: RecordingListener
    """What happens in the guard's pool."""

    def __init__(
        self, of: Guard | str, results: Results | None, *, opens: bool, settings: Mapping[str, Any]
    ) -> None:
        super().__init__(results)
        self._of = of
        self._opens = opens
        self._settings = settings
        self._before: dict[str, Any] = {}
        self.events = RecordingListener()

    # -- the block -----------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._begin()
        try:
            if self._opens and self.guard.mode != "async":
                self._insist_warm(warm=self.guard.open(OPENS_WITHIN))
        except BaseException:
            self._shut()
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._shut()
        self._end()
        if raised is None:
            self._insist_on_script()

    async def __aenter__(self) -> Self:
        self._begin()
        try:
            if self._opens:
                self._insist_warm(warm=await self.guard.aopen(OPENS_WITHIN))
        except BaseException:
            await self.guard.ashut()
            self._end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.guard.ashut()
        self._end()
        if raised is None:
            self._insist_on_script()

    def _begin(self) -> None:
        """Have the guard lead here."""
        found = guard(self._of) if isinstance(self._of, str) else self._of
        self.start()
        try:
            settings = found.settings.replace(**self._replacing())
        except BaseException:
            self.stop()
            raise
        self.guard = found
        self._before = {name: getattr(found, name) for name in _STATE}
        found.settings = settings
        found.arguments = found.arguments.replace(
            kwargs=_placeless(found.arguments.kwargs), listener=self.events
        )
        found.from_environment = found.retired = False
        found._runtime = None
        registry.changed()

    def _replacing(self) -> dict[str, Any]:
        """The settings that are others within the block."""
        if fixed := sorted(self._settings.keys() & _FIXED):
            raise SettingsError(
                f"keyword {', '.join(fixed)}: within fake() nothing is shared; drop it, and give "
                f"max_size for the number of connections"
            )
        size = self._settings.get("max_size", max(SIZE, self._settings.get("floor", SIZE)))
        return {
            **_FIXED,
            "floor": size,
            "max_size": size,
            **self._settings,
            "budget": size,
            "dsn": self.conninfo,
            "runtime_dir": self.folder / "run",
        }

    def _insist_warm(self, *, warm: bool) -> None:
        if not warm:
            raise PoolguardError(not_warm(self.guard.status(), OPENS_WITHIN))

    def _shut(self) -> None:
        """Close what was opened within the block, wherever that was."""
        runtime = self.guard._runtime
        if not isinstance(runtime, AsyncRuntime) or not runtime.alive:
            self.guard.shut()
        elif runtime.loop.is_running() and not _runs_here(runtime.loop):
            closing = asyncio.run_coroutine_threadsafe(self.guard.ashut(), runtime.loop)
            closing.result(OPENS_WITHIN)
        else:
            runtime.close_soon()

    def _end(self) -> None:
        """Have the guard be as it was."""
        for name, value in self._before.items():
            setattr(self.guard, name, value)
        if self.guard.opened:
            self.guard._publish()
        registry.changed()
        self.stop()

    # -- what befalls its pool -----------------------------------------------------------------

    @contextmanager
    def exhausted(self, *, waiting: int = 0) -> Iterator[None]:
        """Within the block somebody else has all connections, and more cannot be had: an acquire
        waits, and times out after ``acquire_timeout`` unless the block has ended by then.

        :param waiting: so many acquires wait already. With ``max_waiting`` as large the next one is
            rejected at once.

        Raises :exc:`~poolguard.errors.PoolguardError` where the guard is not open.
        """
        pool: Any = self.guard.pool
        held: list[Any] = []
        waiters = [_Waits(clock.now(), math.inf) for _ in range(waiting)]
        core = pool._core
        most = core.max_size

        def take() -> None:
            with pool._mutex:
                while core.idle and (conn := core.take(core.idle[0].proved_at)) is not None:
                    held.append(conn)
                core.max_size = len(core.entries)
                for waiter in waiters:
                    core.acquire(clock.now(), waiter)

        def give_back() -> None:
            with pool._mutex:
                core.max_size = most
                held.extend(
                    conn
                    for waiter in waiters
                    if (conn := core.withdraw(waiter, clock.now())) is not None
                )
            for conn in held:
                if (job := pool._put(conn, conn._poolguard_entry)) is not None:
                    pool._do(job)
            pool._ring()

        self._with_pool(take)
        try:
            yield
        finally:
            self._with_pool(give_back)

    def _with_pool(self, job: Callable[[], None]) -> None:
        """Do it where the pool may be changed: an async one on its loop alone."""
        runtime = self.guard._runtime
        if not isinstance(runtime, AsyncRuntime) or _runs_here(runtime.loop):
            return job()

        async def there() -> None:
            job()

        return asyncio.run_coroutine_threadsafe(there(), runtime.loop).result(OPENS_WITHIN)


class _Waits(Waiter):
    """An acquire of nobody's."""

    def wake(self) -> None: ...


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    with suppress(RuntimeError):  # no loop runs here
        return asyncio.get_running_loop() is loop
    return False


def _placeless(kwargs: Any) -> Any:
    """The keywords of a connect, without what names the database and the role."""
    if callable(kwargs):

        def asked() -> Any:
            answer = kwargs()
            return _later(answer) if isawaitable(answer) else _placeless(answer)

        return asked
    if not isinstance(kwargs, Mapping):
        return kwargs
    gone = of_libpq({**kwargs}).keys() - OURS_TO_KEEP
    return {name: value for name, value in kwargs.items() if name not in gone}


async def _later(answer: Awaitable[Any]) -> Any:
    return _placeless(await answer)
