"""Which guard an engine has, and when it has it.

An engine has a guard of its own, as it has a pool of its own without the plugin: its connections
carry the engine's isolation level, adapters, and whatever its listeners have set.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary, finalize, proxy, ref

from psycopg.conninfo import make_conninfo
from sqlalchemy.engine import Engine
from sqlalchemy.pool.base import _ConnectionRecord
from sqlalchemy.util import greenlet_spawn

from ..errors import PoolguardError, SettingsError
from ..runtime.adoption import guard_for
from ..runtime.guards import Guard
from ..runtime.lookup import forget
from ..settings import Kind, Settings
from ..util.conninfo import of_libpq
from ..util.conninfo_location import same_database
from ..util.logs import logger
from ..worker import context, registry
from .pool import AsyncGuardPool, GuardPool

__all__ = ["Binding", "binding_of"]

_lock = threading.RLock()
_bindings: WeakKeyDictionary[Engine, Binding] = WeakKeyDictionary()
_left: deque[tuple[Binding, Guard]] = deque()
"""Guards whose engine is gone: an engine that is made again, for the same, has the same guard."""


class Binding:
    """What an engine wants of its guard, and the guard once there is one.

    :param connect: the arguments of its connects.
    :param settings: of the guard.
    :param swallowed: the engine's arguments of which the guard makes nothing.
    """

    def __init__(
        self,
        engine: Engine,
        connect: Mapping[str, Any],
        settings: Mapping[str, Any],
        swallowed: tuple[str, ...],
    ) -> None:
        self.engine = ref(engine)
        self.kind: Kind = "async" if engine.dialect.is_async else "sync"
        self.connect = connect
        self.place = of_libpq(connect)
        self.settings = {key: value for key, value in settings.items() if key != "name"}
        self.name: str | None = settings.get("name")
        self.swallowed = swallowed
        self.guard: Guard | None = None
        self.adopted = False
        """The guard is the environment's, which others may use as well."""
        self.taken_over = False
        """It was another engine's before."""
        _bindings[engine] = self

    def __repr__(self) -> str:
        return f"<Binding {self.kind} {self.guard!r}>"

    def for_worker(self) -> list[Guard]:
        """The guard, for a worker to open; none where the engine is gone."""
        if self.engine() is None:
            return []
        found = self.bound()
        if self.swallowed:
            _say_once(
                f"poolguard {found.name!r}: the engine's {', '.join(self.swallowed)} are left to "
                f"the guard"
            )
        return [found]

    def bound(self) -> Guard:
        """The guard, made where there is none yet; the engine's connections are its own from now
        on. Raises :exc:`~poolguard.errors.SettingsError`."""
        with _lock:
            if self.guard is None:
                engine = self.engine()
                assert engine is not None, "whoever asks has it"
                self.guard = found = self._taken_over() or self._made()
                kind = AsyncGuardPool if self.kind == "async" else GuardPool
                engine.pool = pool = kind(engine.pool, found, self.connect)
                self._connect_by(engine)
                if not self.taken_over:
                    found.when_warm.append(_warming(ref(pool), self.kind))
                finalize(engine, _left.append, (self, found)).atexit = False
            return self.guard

    # -- which guard ---------------------------------------------------------------------------

    def _made(self) -> Guard:
        name = self.name or self._free_name()
        found, self.adopted = guard_for(
            self.connect, kind=self.kind, name=name, settings=self.settings or None
        )
        return found

    def _taken_over(self) -> Guard | None:
        """The guard of an engine that is gone and was the same; others of such are closed."""
        for _ in range(len(_left)):
            former, found = _left.popleft()
            if registry.registered(found.name) is not found:
                continue
            if self._is_same(former) and _is_here(found):
                self.adopted, self.taken_over = former.adopted, True
                return found
            if former.adopted or context.role() != "worker" or not _forgotten(found):
                _left.append((former, found))
        return None

    def _is_same(self, other: Binding) -> bool:
        ours, theirs = (
            (b.kind, b.name, b.settings, {**b.connect, "context": None}) for b in (self, other)
        )
        return ours == theirs

    def _free_name(self) -> str:
        conninfo = make_conninfo(**self.place)
        if _is_default(conninfo):
            return "default"
        base = str(self.place.get("dbname") or self.place.get("user") or "database")
        name, n = base, 1
        while registry.registered(name) is not None:
            n += 1
            name = f"{base}-{n}"
        return name

    # -- how it connects -----------------------------------------------------------------------

    def _connect_by(self, engine: Engine) -> None:
        """Have the guard ask the engine's ``do_connect`` listeners, who may know a new password."""
        assert self.guard is not None
        said = {key: value for key, value in self.connect.items() if key not in self.place}
        given = self.guard.arguments.kwargs
        base = {**(given if isinstance(given, Mapping) else {}), **said}
        asking = _Asking(engine, self.connect, base)
        self.guard.adopt(self.guard.arguments.replace(kwargs=asking))


class _Asking:
    """The keywords of each connect: *base*, as the engine's ``do_connect`` listeners change what
    SQLAlchemy would *connect* with."""

    def __init__(self, engine: Engine, connect: Mapping[str, Any], base: Mapping[str, Any]) -> None:
        self._dialect = engine.dialect
        self._pool = proxy(engine.pool)
        self._connect = connect
        self._base = dict(base)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'listeners' if self.may_change_role else 'nobody'}>"

    @property
    def may_change_role(self) -> bool:
        """Whether there is anybody who might; the guard asks as it is opened."""
        return bool(self._dialect._has_events and self._dialect.dispatch.do_connect)

    def __call__(self) -> dict[str, Any]:
        if not self.may_change_role:
            return self._base
        connect = self._connect
        arguments: list[Any] = []
        keywords = dict(connect)
        for listener in self._dialect.dispatch.do_connect:
            record: Any = _ConnectionRecord(self._pool, connect=False)  # its ``info`` goes nowhere
            if listener(self._dialect, record, arguments, keywords) is not None:
                raise SettingsError(
                    "a do_connect listener has made a connection of its own, which poolguard "
                    "cannot pool: have it change the keywords it is given, or leave out "
                    "plugins=['poolguard']"
                )
        changed = {k: v for k, v in keywords.items() if k not in connect or v != connect[k]}
        return {**self._base, **changed}


def binding_of(engine: Engine) -> Binding | None:
    """What is known of an engine; None where it has no plugin, or that stands aside."""
    return _bindings.get(engine)


def _is_default(conninfo: str) -> bool:
    """Whether the guard for that database may be the default one: there is none that somebody has
    spelled out, and the environment names no other database."""
    known = registry.registered("default")
    if known is not None and not known.from_environment:
        return False
    if not Settings.has_dsn(beside=True):
        return True
    named = Settings.build().dsn
    return isinstance(named, str | None) and same_database(conninfo, named or "")


def _is_here(guard: Guard) -> bool:
    """Whether it is of use here: not open on an event loop, unless that is the one that runs."""
    if guard.mode != "async" or not guard.opened:
        return True
    try:
        asyncio.get_running_loop()
        guard.insist_on_its_loop()
    except (RuntimeError, PoolguardError):
        return False
    return True


def _forgotten(guard: Guard) -> bool:
    try:
        forget(guard, timeout=0)
    except PoolguardError:  # it is open on an event loop
        return False
    return True


def _warming(pool: ref[GuardPool], kind: Kind) -> Any:
    """What is done with the warm pool of an engine, if that is still there."""

    def warm() -> None:
        if (found := pool()) is not None:
            found.warm_up()

    async def warm_async() -> None:
        await greenlet_spawn(warm)

    return warm_async if kind == "async" else warm


def _say_once(line: str) -> None:
    if context.current().first_to_say(line):
        logger.info("%s", line)


def _renew_lock() -> None:
    global _lock  # noqa: PLW0603
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)  # whoever held it does not exist there
