"""How an adapter gets the guard of a database that its framework is configured for.

A guard is made where it serves: in gunicorn's workers. The hooks may have opened one for the same
database while the application was still being imported; the adapter goes on with that, since a
second one would close what is warm already.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..errors import PoolguardError
from ..pool.arguments import PoolArguments
from ..settings import Kind
from ..util.conninfo import of_libpq
from ..util.logs import logger
from ..worker import context, registry
from .guards import Guard, described
from .lookup import of_environment

__all__ = ["guard_for", "in_each_worker", "inert"]

FRAMEWORKS = frozenset({"client_encoding"})
"""What frameworks say in each connect, and the environment's connection string need not."""


def in_each_worker(make: Callable[[], Iterable[Guard]]) -> None:
    """Have *make* make its guards in each worker of gunicorn's, before the hooks open them; in one
    that is importing the application, which calls this, at once. Nowhere else.

    What it raises of poolguard's errors has the hooks refuse the worker. In a gunicorn without the
    hooks it is said that nothing is pooled. A method of an object that is gone makes nothing.
    """
    if context.role() is None and "gunicorn.arbiter" in sys.modules:
        _say_that_hooks_are_missing()
    made = registry.in_each_worker(make)
    try:
        for guard in made or ():
            if guard.mode == "sync" and not guard.opened:
                guard.open()  # it connects while the import goes on
    except PoolguardError as error:
        registry.complain(error)


def _say_that_hooks_are_missing() -> None:
    if context.current().first_to_say("no hooks"):
        logger.warning(
            "poolguard: this gunicorn runs without poolguard's hooks, so that no pool is opened: "
            "the framework connects as it would without poolguard. Add to gunicorn.conf.py: "
            "from poolguard.gunicorn import *"
        )


def inert(conninfo: Any = None, *, name: str = "default", **given: Any) -> Guard:
    """A guard as ``Guard(…)`` makes it, which no door opens and nobody finds by its name, until it
    is opened itself: for a process that serves nothing.

    Raises :exc:`~poolguard.errors.SettingsError`.
    """
    arguments = {key: given.pop(key) for key in given.keys() & PoolArguments.NAMES}
    return Guard._make(*described(conninfo, name, given, **arguments))


def guard_for(
    connect: Mapping[str, Any],
    *,
    kind: Kind,
    name: str,
    configure: Callable[[Any], Any] | None = None,
    renew: Callable[[], Mapping[str, Any]] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> tuple[Guard, bool]:
    """The guard for the database that ``psycopg.connect(**connect)`` leads to, and whether it has
    connected before with less than *connect* says.

    Such a one is the default guard of the environment, where it is open for the same database and
    no *settings* are asked for; its connections are the adapter's to dress. Where credentials may
    change, *renew* is asked at each connect for what *connect* says then. Raises
    :exc:`~poolguard.errors.SettingsError`.
    """
    from psycopg.conninfo import make_conninfo

    place = of_libpq(connect)
    rest = {key: value for key, value in connect.items() if key not in place}
    known = of_environment()
    is_open = known is not None and known.opened and known.mode == kind
    if known is not None and is_open and not settings and _is_same(known.settings.dsn, place):
        kwargs = renew or {**_beside(place), **rest}
        known.adopt(PoolArguments(configure=configure, kwargs=kwargs))
        return known, True
    given = {"mode": kind, **(settings or {})}
    conninfo = make_conninfo(**place)
    return Guard(conninfo, name=name, configure=configure, kwargs=renew or rest, **given), False


def _is_same(dsn: object, place: Mapping[str, Any]) -> bool:
    """Whether both say the same of a connection, passwords included."""
    from psycopg.conninfo import conninfo_to_dict

    if not isinstance(dsn, str):
        return False
    said = {key: str(value) for key, value in conninfo_to_dict(dsn).items()}
    meant = {key: str(value) for key, value in place.items() if key not in FRAMEWORKS}
    return _without_defaults(said) == _without_defaults(meant)


def _without_defaults(said: Mapping[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in said.items()
        if value and (key, value) != ("port", "5432") and key not in FRAMEWORKS
    }


def _beside(place: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in place.items() if key in FRAMEWORKS}
