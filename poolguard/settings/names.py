"""Names of settings and of guards: what a name that is none of ours was likely meant to be."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from ..errors import SettingsError
from .shown import LONGEST, shown

__all__ = [
    "NAMES_OF_OTHERS",
    "PREFIX",
    "RENAMED",
    "by_current_names",
    "checked_name",
    "is_others",
    "unknown",
    "variable_of",
    "warn_of_rename",
]

PREFIX = "POOLGUARD_"
_NOT_SETTINGS = frozenset({"POOLGUARD_PG_BIN"})  # the lab's: where PostgreSQL's binaries are
# Kubernetes gives each container the places of the services around it, and Docker those of what it
# is linked to: for a service called poolguard, or poolguard-web, the names begin as ours do.
_INJECTED = (
    rf"(?s:{PREFIX}(?:.+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT|PORT_\d+_(?:TCP|UDP|SCTP)(?:_.+)?"
    r"|ENV_.+))"
)
_LINKED = PREFIX + r"(?:.+_)?NAME"  # where the value is a path: /web/poolguard
_NAME = re.compile(rf"(?!.*(?:://|password)).{{1,{LONGEST}}}")
# Other pools' names for the same. By spelling alone, min_size would suggest max_size.
NAMES_OF_OTHERS: Final = {
    "conninfo": "dsn",
    "url": "dsn",
    "database_url": "dsn",
    "min_size": "floor",
    "minconn": "floor",
    "pool_size": "floor",
    "maxconn": "max_size",
    "max_overflow": "max_size",
    "timeout": "acquire_timeout",
    "pool_timeout": "acquire_timeout",
    "max_idle": "idle_timeout",
    "max_inactive_connection_lifetime": "idle_timeout",
    "pool_recycle": "max_lifetime",
    "pool_pre_ping": "check_after_idle",
    "num_workers": "max_connecting",
}
_NOT_NEEDED = {  # psycopg_pool's that a guard has no setting for, and why
    "reconnect_timeout": "connecting is tried again for ever",
    "reconnect_failed": "connecting is tried again for ever",
    "open": "a guard is opened by the hooks, the middleware, or its own open()",
    "close_returns": "poolguard.GuardedPool alone takes it",
}


RENAMED: Final = {"refresh_interval": "check_interval"}
"""Names of 0.1, which go on working for one release, each with today's."""


def unknown(kind: str, names: Iterable[str], known: Mapping[str, str]) -> Iterator[str]:
    """One line for each of ``names`` that is not among ``known``: setting -> how it is spelled."""
    for name in names:
        if name not in known.values():
            meant = _meant_by(name.removeprefix(PREFIX), known)
            remedy = f"drop it, or choose from {', '.join(known.values())}"
            if meant is not None and meant in known:
                remedy = f"did you mean {known[meant]}?"
            elif meant:
                remedy = f"drop it: {meant}"
            yield f"{kind} {name} is no setting; {remedy}"


def warn_of_rename(former: str, current: str) -> None:
    """A setting is given by its *former* name: warn of it where our caller's code stands."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("poolguard."):
        frame, level = frame.f_back, level + 1
    text = f"{former} is called {current} now; the former name goes with the next release"
    warnings.warn(text, DeprecationWarning, stacklevel=level)


def by_current_names(given: Mapping[str, Any], spelled: Callable[[str], str]) -> dict[str, Any]:
    """*given* by today's names, where one is *spelled* in a way of its own. Raises
    :exc:`SettingsError` where a setting is given by both of its names."""
    current = dict(given)
    for former, name in RENAMED.items():
        if (value := current.pop(spelled(former), None)) is None:
            continue
        if current.get(spelled(name)) is not None:
            raise SettingsError(
                f"{spelled(former)} and {spelled(name)} are the same setting; drop the first, its "
                f"former name"
            )
        warn_of_rename(spelled(former), spelled(name))
        current[spelled(name)] = value
    return current


def variable_of(name: str) -> str:
    """The environment variable of the setting called *name*."""
    return PREFIX + name.upper()


def _meant_by(name: str, known: Iterable[str]) -> str | None:
    """The setting that *name* likely stands for, or why there is none; None where nobody knows.

    It may be another pool's name for the same, or one that was mistyped.
    """
    name = name.lower()
    if name in known or name in _NOT_NEEDED:
        return _NOT_NEEDED.get(name, name)
    import difflib  # for a user's mistake; each boot would pay for it

    return next(iter(difflib.get_close_matches(NAMES_OF_OTHERS.get(name, name), known, 1)), None)


def is_others(variable: str, texts: Mapping[str, str]) -> bool:
    """Whether a variable whose name begins as ours do is not meant as a setting."""
    if re.fullmatch(_LINKED, variable):
        return texts[variable].startswith("/")
    return variable in _NOT_SETTINGS or re.fullmatch(_INJECTED, variable) is not None


def checked_name(name: object) -> str:
    """A guard's *name*, fit for logs, spans and tables. Raises :exc:`SettingsError` otherwise."""
    if isinstance(name, str) and name.strip() and _NAME.fullmatch(name) and name.isprintable():
        return str.__str__(name)  # and not what an enumeration makes of it
    raise SettingsError(
        f"keyword name={shown(name)}: it takes what logs and status call the guard, up to "
        f"{LONGEST} printable characters and no dsn; correct it, or drop it for the default "
        f"('default')"
    )
