"""Which guards there are: one by its name, all of them, or those that a door opens of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ..errors import PoolguardError, SettingsError
from ..settings import Kind, Settings, checked_name
from ..worker import registry
from .guards import Guard
from .lifecycle import stand_in

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from psycopg import AsyncConnection, Connection

__all__ = [
    "aconnection",
    "connection",
    "forget",
    "guard",
    "guards",
    "guards_to_open",
    "of_environment",
    "spelled_out",
]


def guards(*, retired: bool = True) -> list[Guard]:
    """The guards of this process, in the order in which they were made: all of them, or without
    those that were closed by their name."""
    return cast("list[Guard]", registry.guards(retired=retired))


def spelled_out() -> list[Guard]:
    """Those that somebody has made, and not closed by their name."""
    return [each for each in guards(retired=False) if not each.from_environment]


def guards_to_open(given: Guard | None = None, kind: Kind | None = None) -> list[Guard]:
    """Those that a door opens of itself: the one that it was given, or all that are registered and
    were not closed by name, and the default one of the environment. Of one *kind*, where that is
    asked for.

    The default one stands beside the others, unless one of them names the same database, and in
    the place of one that was closed by name. Raises :exc:`~poolguard.errors.SettingsError` where
    the environment is wrong, and what an adapter has complained about.
    """
    if (error := registry.complaint()) is not None:
        raise error
    found = [given] if given is not None else _to_open()
    return [each for each in found if kind is None or each.mode == kind]


def _to_open() -> list[Guard]:
    found = spelled_out()
    if registry.registered("default") in found or not Settings.has_dsn(beside=bool(found)):
        return found
    if found and stand_in(Settings.build(), found) is not None:
        return found
    return [_default(), *found]


def guard(name: str = "default") -> Guard:
    """The guard of that name; the default one is made from the environment if there is none.

    Raises :exc:`~poolguard.errors.SettingsError` where no guard has that name.
    """
    name = checked_name(name)
    known = registry.registered(name)
    if known is not None:
        return cast("Guard", known)
    if name != "default":
        raise SettingsError(
            f"there is no guard named {name!r}: make it with poolguard.Guard(…, name={name!r})"
        )
    return _default()


def forget(guard: Guard, timeout: float = 5.0) -> None:
    """Close a guard, within *timeout* seconds, and forget it: its name is free.

    For applications that are made and thrown away in one process, as tests do. Raises
    :exc:`~poolguard.errors.PoolguardError` where it is open and async: ``await guard.aclose()``
    comes first.
    """
    if guard.opened and guard.mode == "async":
        raise PoolguardError(
            f"the guard {guard.name!r} is open on an event loop, and cannot be forgotten: close it "
            f"first, with await guard.aclose()"
        )
    guard.close(timeout)
    registry.forget(guard)


def of_environment() -> Guard | None:
    """The default guard, where the environment has made it; None where there is none."""
    known = cast("Guard | None", registry.registered("default"))
    return known if known is not None and known.from_environment else None


def _default() -> Guard:
    known = of_environment()
    if known is not None:
        return known
    built = Settings.build()
    found = registry.register(
        "default", built, lambda: Guard._make("default", built, from_environment=True)
    )
    found.retired = False
    return found


def connection(timeout: float | None = None) -> AbstractContextManager[Connection[Any]]:
    """A connection of the default guard: ``with poolguard.connection() as conn``."""
    return guard().connection(timeout)


def aconnection(timeout: float | None = None) -> AbstractAsyncContextManager[AsyncConnection[Any]]:
    """A connection of the default guard: ``async with poolguard.aconnection() as conn``."""
    return guard().aconnection(timeout)
