"""The guards of this process, by name."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from inspect import ismethod
from typing import Any, Literal, Protocol, TypeVar, cast
from weakref import WeakMethod

from ..errors import PoolguardError, SettingsError
from ..pool.arguments import PoolArguments
from ..settings import Kind, Settings
from . import context
from .context import WorkerContext

__all__ = [
    "Registered",
    "become",
    "begin_file",
    "changed",
    "claim",
    "complain",
    "complaint",
    "end_file",
    "forget",
    "guards",
    "in_each_worker",
    "register",
    "registered",
    "renew_locks",
    "restore",
    "serve",
    "wrap",
]


class Registered(Protocol):
    """A guard, as far as the process it belongs to has to know of it."""

    name: str
    settings: Settings
    arguments: PoolArguments
    from_environment: bool
    retired: bool
    in_file: Literal["", "now", "before"]

    @property
    def opened(self) -> bool: ...

    @property
    def mode(self) -> Kind | None: ...

    @property
    def owes(self) -> bool: ...

    def open_for_request(self, kind: Kind) -> None: ...

    def status(self) -> dict[str, Any]: ...

    def leave(self, *, accepts: bool = False) -> None: ...

    def shut(self, timeout: float = 5.0) -> None: ...

    def renew_lock(self) -> None: ...


G = TypeVar("G", bound=Registered)
T = TypeVar("T")

wrapped = False
"""A middleware of ours stands around an application of this process, or of the master's."""

_lock = threading.RLock()
_guards: dict[str, Registered] = {}
version = 0
"""Changes whenever the guards do, or what decides their mode: what was found out for all of them
holds as long as it stays the same."""
ready_paths: frozenset[str] = frozenset()
"""The ``ready_path`` of each guard: each request's path is looked for here, and this alone."""
_jobs: list[Callable[[], Callable[[], object] | None]] = []
"""References to what adapters do in each worker, before its guards are opened."""
_complaint: PoolguardError | None = None
served: frozenset[Registered | None] = frozenset()
"""The guards for which a door of this process has begun to serve requests; None stands for all."""


def register(
    name: str,
    settings: Settings,
    make: Callable[[], G],
    arguments: PoolArguments = PoolArguments(),  # noqa: B008 - nobody changes it
) -> G:
    """The guard of that name: the registered one if its settings and its pool's arguments are the
    same, else a new one.

    One that is not open in this process gives way to a new one, whatever its settings: nobody uses
    it. So does one that poolguard itself made from the environment, and opened. Raises
    :exc:`~poolguard.errors.SettingsError` where an open one has other settings or arguments.
    """
    with _lock:
        known = cast("G | None", _guards.get(name))
        if known is not None and (known.settings, known.arguments) == (settings, arguments):
            return known
        if known is not None and known.opened:
            others = known.arguments.unlike(arguments)
            same = known.settings.matches(settings)
            if same and not others and not known.from_environment:
                return known
            if not (known.from_environment and known.mode == "sync"):
                what = [] if same else [f"not {settings!r}"]
                what += [f"with another {each}" for each in others]
                raise _is_open(known, " and ".join(what))
        made = _guards[name] = make()
        changed()
    if known is not None:
        known.shut()
    return made


def claim(guard: Registered) -> None:
    """*guard* is about to be opened: from now on its name is its own.

    Another one of that name may have taken its place, or a reload may have forgotten it. Raises
    :exc:`~poolguard.errors.SettingsError` where that other one is open.
    """
    with _lock:
        known = _guards.get(guard.name)
        if known is guard:
            return
        if known is not None and known.opened:
            raise _is_open(known, "and is another object than the one that is to be opened")
        _guards[guard.name] = guard
        changed()


def _is_open(known: Registered, what: str) -> SettingsError:
    return SettingsError(
        f"a guard named {known.name!r} is open with other settings: {known.settings!r}, {what}. "
        f"Close it first, give the second one a name of its own, or use "
        f"poolguard.guard({known.name!r})"
    )


def registered(name: str) -> Registered | None:
    """The guard of that name, if there is one."""
    return _guards.get(name)  # without the lock, which each acquire would take


def guards(*, retired: bool = True) -> list[Registered]:
    """The guards of this process, in the order in which they were made: all of them, or without
    those that were closed by their name."""
    with _lock:
        return [guard for guard in _guards.values() if retired or not guard.retired]


def become(found: WorkerContext) -> None:
    """This process is that worker. Told by a server's door, once, as the worker begins."""
    with _lock:
        context.become(found)
        changed()
        for each in [*_jobs] if found.role == "worker" else []:
            if (job := each()) is not None:
                _do(job)


def in_each_worker(job: Callable[[], T]) -> T | None:
    """Have *job* make its guards in each worker of gunicorn's, before those are opened: at once
    where this is one, which returns what it does, and as it begins where this process forks it.

    So an adapter's guards are made where they serve, and nowhere else: not in ``manage.py``, not in
    a test, and not in a master that imports the application for its workers. A method keeps its
    object no longer than others do: a test may make an engine, or an application, again and again.
    """
    with _lock:
        if context.role() != "worker":
            _jobs[:] = [each for each in _jobs if each() is not None]
            _jobs.append(WeakMethod(job) if ismethod(job) else lambda: job)
            return None
        return _do(job)


def _do(job: Callable[[], T]) -> T | None:
    try:
        return job()
    except PoolguardError as error:
        complain(error)
        return None


def complain(error: PoolguardError) -> None:
    """Have the hooks refuse the worker, with one line for *error*: raised while the application is
    being imported, it would end in a traceback."""
    global _complaint  # noqa: PLW0603
    _complaint = _complaint or error


def complaint() -> PoolguardError | None:
    """What an adapter has complained about first."""
    return _complaint


def forget(guard: Registered) -> None:
    """No door opens the guard any more, and no one finds it by its name."""
    with _lock:
        if _guards.get(guard.name) is guard:
            del _guards[guard.name]
            changed()


def begin_file() -> dict[str, Registered]:
    """gunicorn is about to run its file again; returns what :func:`restore` and :func:`end_file`
    take."""
    with _lock:
        before = dict(_guards)
        for guard in before.values():
            guard.in_file = guard.in_file and "before"
        return before


def end_file() -> None:
    """The file has run again: forget the guards that it has made before and makes no more."""
    with _lock:
        for guard in [*_guards.values()]:
            if guard.in_file == "before":
                del _guards[guard.name]
        changed()


def restore(before: dict[str, Registered]) -> None:
    """The file could not be run to its end: the guards are those of *before*."""
    with _lock:
        _guards.clear()
        _guards.update(before)
        for guard in before.values():
            guard.in_file = guard.in_file and "now"
        changed()


def forget_all() -> None:
    """Start anew, for tests; open guards are not closed."""
    global served, wrapped, _complaint  # noqa: PLW0603
    with _lock:
        _guards.clear()
        _jobs.clear()
        _complaint = None
        served, wrapped = frozenset(), False
        become(WorkerContext())


def wrap() -> None:
    """A middleware is being made: the hooks put no other one around it."""
    global wrapped  # noqa: PLW0603
    wrapped = True


def serve(guard: Registered | None) -> None:
    """A door has begun to serve requests, for *guard* or for all: an acquire may open them now."""
    global served  # noqa: PLW0603
    with _lock:
        served |= {guard}


def changed() -> None:
    """The guards are others, or have other settings."""
    global version, ready_paths  # noqa: PLW0603
    version += 1
    paths = (guard.settings.ready_path for guard in _guards.values())
    ready_paths = frozenset(path for path in paths if path is not None)


def renew_locks() -> None:
    """Make the locks of the registry and its guards anew: after a fork no thread holds them."""
    global _lock  # noqa: PLW0603
    _lock = threading.RLock()
    for each in _guards.values():
        each.renew_lock()


# The thread that held a lock at the fork does not exist in the child, so nobody would release it.
os.register_at_fork(after_in_child=renew_locks)
