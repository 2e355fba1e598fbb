"""The guards of this process by name, and what the process is: one worker of how many."""

from __future__ import annotations

import os
import re
import threading
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

from ..budget.plan import Workplace
from ..errors import SettingsError
from ..pool.arguments import PoolArguments
from ..settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Registered",
    "begin_file",
    "changed",
    "claim",
    "end_file",
    "guards",
    "register",
    "registered",
    "renew_locks",
    "restore",
    "serve",
    "set_workplace",
    "web_concurrency",
    "worker_class",
    "workplace",
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
    def mode(self) -> Literal["sync", "async"] | None: ...

    @property
    def owes(self) -> bool: ...

    def open_for_request(self, kind: str) -> None: ...

    def status(self) -> dict[str, Any]: ...

    def leave(self, *, accepts: bool = False) -> None: ...

    def shut(self, timeout: float = 5.0) -> None: ...

    def renew_lock(self) -> None: ...


G = TypeVar("G", bound=Registered)

_lock = threading.RLock()
_guards: dict[str, Registered] = {}
version = 0
"""Changes whenever the guards do, or what decides their mode: what was found out for all of them
holds as long as it stays the same."""
ready_paths: frozenset[str] = frozenset()
"""The ``ready_path`` of each guard: each request's path is looked for here, and this alone."""
stays = False
"""This process was told to end, and accepts requests until the workers that come next do."""
runs = False
"""The service that this process belongs to ran before it was started."""
served: frozenset[Registered | None] = frozenset()
"""The guards for which a door of this process has begun to serve requests; None stands for all."""
_workplace: Workplace | None = None
"""What the server has said; None where there is none that would."""
_worker_class: str | None = None


def _first_here() -> Callable[[str], bool]:
    said: set[str] = set()

    def first_to_say(what: str) -> bool:
        is_first = what not in said
        said.add(what)
        return is_first

    return first_to_say


first_to_say: Callable[[str], bool] = _first_here()
"""Whether nobody has said that yet: in this process, or, where the gunicorn hooks know of the
others, in any worker."""


def register(
    name: str,
    settings: Settings,
    make: Callable[[], G],
    arguments: PoolArguments = PoolArguments(),  # noqa: B008 - it cannot be changed
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


def guards() -> list[Registered]:
    """All guards of this process, in the order in which they were made."""
    with _lock:
        return list(_guards.values())


def workplace() -> Workplace:
    """What this process is: where no server says how many workers there are, one of as many as
    ``WEB_CONCURRENCY`` says."""
    return _workplace or Workplace(web_concurrency() or 1)


def web_concurrency() -> int | None:
    """The number of workers in ``WEB_CONCURRENCY``, which servers take as their default; None where
    it holds none."""
    text = os.environ.get("WEB_CONCURRENCY", "").strip()
    return int(text) if re.fullmatch("0*[1-9][0-9]{0,4}", text, re.ASCII) else None


def worker_class() -> str | None:
    """gunicorn's name for the kind of worker that this process is; None outside gunicorn."""
    return _worker_class


def set_workplace(found: Workplace | None, worker_class: str | None = None) -> None:
    """Told by the gunicorn hooks, once, in each worker. None: nothing is known."""
    global _workplace, _worker_class
    with _lock:
        _workplace, _worker_class = found, worker_class
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
    global runs, served, first_to_say  # noqa: PLW0603
    with _lock:
        _guards.clear()
        runs = False
        served = frozenset()
        first_to_say = _first_here()
        changed()
    set_workplace(None)


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
    """Forget who holds the locks of the registry and its guards, where nobody can."""
    global _lock  # noqa: PLW0603
    _lock = threading.RLock()
    for each in _guards.values():
        each.renew_lock()


# The thread that held a lock at the fork does not exist in the child, so nobody would release it.
os.register_at_fork(after_in_child=renew_locks)
