"""Which guard lends a database's connections: in a worker always, elsewhere where it is open."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from ..errors import PoolguardError, SettingsError
from ..pool.errors import PoolTimeout
from ..runtime.adoption import guard_for, in_each_worker
from ..runtime.guards import Guard
from ..util.conninfo import of_libpq
from ..worker import context
from . import refusals
from .checks import aliases, insist_valid
from .sessions import Dress

__all__ = ["Lender", "begin", "forget_all", "guard_of", "lender_of", "seen_by"]

ITS_OWN = frozenset(
    {
        f"{__package__}.mixin",
        "django.db.backends.postgresql.base",
        "django.db.backends.base.base",
    }
)
"""Where ``get_connection_params`` says the same at each connect."""


class Seen(NamedTuple):
    """What Django's settings say of a database. Two aliases that say the same share a guard."""

    database: str | None
    params: Mapping[str, Any]
    """By what Django would connect itself."""
    dress: Dress
    settings: Mapping[str, Any]
    """The guard's."""

    def __repr__(self) -> str:
        return f"<Seen {self.database!r}>"  # the parameters hold the password


class Lender:
    """One database as ``settings.DATABASES`` describes it, and the guard that connects to it.

    Django takes it for a pool: it opens that, and has it lend connections.
    """

    def __init__(self, guard: Guard, seen: Seen) -> None:
        self.guard = guard
        self.seen = seen
        self.database = seen.database
        self.dress = seen.dress

    def __repr__(self) -> str:
        return f"<Lender of {self.guard!r}>"

    def open(self) -> None:
        """Nothing: the hooks open the guard, or whoever has asked for it by its alias."""

    def getconn(self) -> Any:
        """A connection of the guard's. Raises what its pool raises; where it is closed, too."""
        pool: Any = self.guard.pool
        connection = pool.getconn()
        if getattr(connection, "_poolguard_dress", None) is not self.dress:
            try:
                self.dress.put_on(connection)
            except BaseException:
                pool.putconn(connection)
                raise
        return connection


_lenders: dict[str, Lender] = {}
_begun = False
_refused: PoolguardError | None = None
"""Why this worker has no guards."""


def begin() -> None:
    """The first wrapper of such an engine was made: have guards of all in each worker."""
    global _begun  # noqa: PLW0603
    if _begun:
        return
    _begun = True
    in_each_worker(_make_all)


def lender_of(alias: str, database: str | None) -> Lender | None:
    """What lends connections of the *database*, by its name, to which *alias* leads now; None where
    Django is to connect.

    In a worker that is for databases of other names only, which are tests' or the server's own:
    what connected beside the guard would be beyond the budget.
    """
    found = _lenders.get(alias)
    if found is None:
        if _refused is not None and context.role() == "worker":
            raise type(_refused)(*_refused.args)
        return None
    if found.database != database:
        return None
    return found if found.guard.opened or context.role() == "worker" else None


def guard_of(alias: str) -> Guard:
    """The guard of that alias. Raises :exc:`~poolguard.errors.SettingsError`."""
    insist_valid([alias])
    found = _lenders.get(alias)
    if found is None or found.database != connections.settings[alias]["NAME"]:
        found = _lenders[alias] = _made(alias)
    return found.guard


def forget_all() -> None:
    """Start anew, for tests; open guards are not closed."""
    global _begun, _refused
    _lenders.clear()
    _begun, _refused = False, None


def _make_all() -> list[Guard]:
    """In a worker. What is wrong is raised at each use as well: a worker of a later generation goes
    on without its guards."""
    global _refused  # noqa: PLW0603
    try:
        found = aliases()
        insist_valid(found)
        for alias in found:
            _lenders[alias] = _made(alias)
    except PoolguardError as error:
        _refused = error
        raise
    refusals.hear()
    return [*dict.fromkeys(lender.guard for lender in _lenders.values())]


def _made(alias: str) -> Lender:
    """A lender for that alias; that of another alias, where they differ in nothing."""
    try:
        seen = seen_by(connections.create_connection(alias))  # a wrapper of nobody's
    except ImproperlyConfigured as error:
        raise SettingsError(f"DATABASES[{alias!r}]: {error}") from None
    for known in _lenders.values():
        if known.seen == seen:
            return known
    guard, adopted = guard_for(
        {**seen.params, "autocommit": True},  # Django sets it at each checkout, where need be
        kind="sync",
        name=alias,
        configure=seen.dress,
        renew=partial(_connect_of, alias) if _may_change(alias) else None,
        settings=seen.settings,
    )
    made = Lender(guard, seen)
    guard.when_warm.append(lambda: _make_ready(made, alias, adopted=adopted))
    return made


def _may_change(alias: str) -> bool:
    """Whether the engine has a way of its own to say by what it connects, as those have which ask a
    cloud for a password that lasts for minutes."""
    homes = {
        each.__module__
        for each in type(connections.create_connection(alias)).__mro__
        if "get_connection_params" in vars(each)
    }
    return bool(homes - ITS_OWN)


def _connect_of(alias: str) -> dict[str, Any]:
    params = connections.create_connection(alias).get_connection_params()
    return {**params, "autocommit": True}


def seen_by(wrapper: Any) -> Seen:
    """What the settings of an engine's *wrapper* say."""
    wrapper.check_settings()
    params = wrapper.get_connection_params()
    given = wrapper.settings_dict
    options = given["OPTIONS"]
    place = of_libpq(params)
    kwargs = {key: value for key, value in params.items() if key not in place}
    dress = Dress(wrapper.timezone_name, options.get("assume_role"), kwargs)
    return Seen(given["NAME"], params, dress, options.get("poolguard") or {})


def _make_ready(lender: Lender, alias: str, *, adopted: bool) -> None:
    """Do what the first requests would: dress what has connected before, and ask what an engine
    asks of its first connection."""
    if adopted:
        _dress_idle(lender)
    wrapper = connections.create_connection(alias)
    try:
        wrapper.ensure_connection()
    finally:
        wrapper.close()


def _dress_idle(lender: Lender) -> None:
    pool: Any = lender.guard.pool
    with ExitStack() as taken, suppress(PoolTimeout):
        for _ in range(pool.counts().idle):
            taken.callback(pool.putconn, lender.getconn())
