"""What a service that gains nothing from poolguard is told, once: no database, or no acquires.

Hooks and middleware may be in place while nothing says where the database is, or while the
application goes on connecting by itself. Then all seems well and no request is faster.
"""

from __future__ import annotations

from ..errors import PoolguardError
from ..settings import VARIABLES, Settings, other_database
from ..util.logs import logger
from ..worker import context, registry
from .guards import Guard
from .lookup import guards, guards_to_open

__all__ = ["announce", "counts", "look", "no_more", "note"]

REQUESTS = 200
"""So many requests without an acquire say that the application does not use its guards."""

counts = True
"""The requests of this process are still counted."""
_left = REQUESTS


def look(given: Guard | None) -> None:
    """A door is about to serve requests for that guard, or all. Opens none.

    What is wrong with the environment is logged: a request that acquires nothing is not to fail.
    """
    global counts, _left
    counts, _left = True, REQUESTS
    registry.serve(given)
    try:
        announce(given)
        for guard in guards():
            guard.begin_anew()
    except PoolguardError as error:
        logger.error("poolguard: %s", error)  # noqa: TRY400 - the text says it all


def announce(given: Guard | None = None) -> None:
    """Register the guards that a door is for, and say where there is none."""
    first_to_say = context.current().first_to_say
    other = other_database()
    if other is not None and not Settings.has_dsn() and first_to_say("other database"):
        logger.info(
            "poolguard: DATABASE_URL names another kind of database (%s): it is left alone", other
        )
    if not guards_to_open(given) and first_to_say("no database"):
        logger.warning(
            "poolguard: nothing says where the database is, so no pool is opened. Set "
            "DATABASE_URL, %s or libpq's own variables, or make a poolguard.Guard with a dsn",
            VARIABLES["dsn"],
        )


def note() -> None:
    """A door has begun to serve a request."""
    global counts, _left  # noqa: PLW0603
    _left -= 1  # threads may lose a count to each other: a few requests later will do
    if _left > 0 or not counts:
        return
    counts = False
    used = guards(retired=False)
    acquires = sum(sum(each.status()["acquires"].values()) for each in used)
    if used and not acquires and context.current().first_to_say("unused"):
        logger.warning(
            "poolguard: %s requests were served, and none of them has acquired a connection of %s: "
            "does the application still connect by itself? poolguard.connection() (or "
            "aconnection()) acquires one",
            REQUESTS,
            " or ".join(repr(each.name) for each in used),
        )


def no_more() -> None:
    """The application asks for connections where there is no pool: there is nothing to tell it."""
    global counts  # noqa: PLW0603
    counts = False
