"""The guards of this process by name, and what the process is: one worker of how many."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from .budget.plan import Workplace
from .errors import SettingsError
from .settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from .guards import Guard

__all__ = [
    "guards",
    "register",
    "registered",
    "renew_locks",
    "set_workplace",
    "worker_class",
    "workplace",
]

_lock = threading.RLock()
_guards: dict[str, Guard] = {}
version = 0
"""Changes whenever the guards do, or what decides their mode: what was found out for all of them
holds as long as it stays the same."""
ready_paths: frozenset[str] = frozenset()
"""The ``ready_path`` of each guard: each request's path is looked for here, and this alone."""
stays = False
"""This process was told to end, and accepts requests until the workers that come next do."""
runs = False
"""The service that this process belongs to ran before it was started."""
_workplace = Workplace()
_worker_class: str | None = None


def register(name: str, settings: Settings, make: Callable[[], Guard]) -> Guard:
    """The guard of that name: the registered one if its settings are the same, else a new one.

    A guard that poolguard itself made from the environment gives way to one that the application
    spells out. Raises :exc:`~poolguard.errors.SettingsError` where two differ otherwise.
    """
    with _lock:
        known = _guards.get(name)
        if known is not None and known.settings == settings:
            return known
        if known is not None and not known.from_environment:
            raise SettingsError(
                f"a guard named {name!r} exists with other settings: {known.settings!r}, not "
                f"{settings!r}. Give the second one a name of its own, or use "
                f"poolguard.guard({name!r})"
            )
        made = _guards[name] = make()
        _changed()
    if known is not None:
        known.close()
    return made


def registered(name: str) -> Guard | None:
    """The guard of that name, if there is one."""
    return _guards.get(name)  # without the lock, which each acquire would take


def guards() -> list[Guard]:
    """All guards of this process, in the order in which they were made."""
    with _lock:
        return list(_guards.values())


def workplace() -> Workplace:
    """What this process is."""
    return _workplace


def worker_class() -> str | None:
    """gunicorn's name for the kind of worker that this process is; None outside gunicorn."""
    return _worker_class


def set_workplace(found: Workplace, worker_class: str | None = None) -> None:
    """Told by the gunicorn hooks, once, in each worker."""
    global _workplace, _worker_class
    with _lock:
        _workplace, _worker_class = found, worker_class
        _changed()


def forget_all() -> None:
    """Start anew, for tests; open guards are not closed."""
    global runs  # noqa: PLW0603
    with _lock:
        _guards.clear()
        _changed()
        runs = False
    set_workplace(Workplace())


def _changed() -> None:
    global version, ready_paths  # noqa: PLW0603
    version += 1
    paths = (guard.settings.ready_path for guard in _guards.values())
    ready_paths = frozenset(path for path in paths if path is not None)


def renew_locks() -> None:
    """Forget who holds the locks of the registry and its guards, where nobody can."""
    global _lock  # noqa: PLW0603
    _lock = threading.RLock()
    for each in _guards.values():
        each._renew_lock()


# The thread that held a lock at the fork does not exist in the child, so nobody would release it.
os.register_at_fork(after_in_child=renew_locks)
