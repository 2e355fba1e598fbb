"""How the keeper of a fleet's host connects: to the guard's own database, or to ``ledger_dsn``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from ..errors import PoolguardError
from ..settings import Settings
from ..util.conninfo import insist_clear, of_libpq
from ..util.conninfo_location import database_name, located

if TYPE_CHECKING:
    import psycopg

    from ..budget.fleet.control import Connect

__all__ = ["control_connect", "sits_in_slots"]


def sits_in_slots(settings: Settings, kwargs: Any) -> bool:
    """Whether pooled sessions are of the very database that has the fleet's ledger: there they
    occupy their slots by locks of their own."""
    if settings.ledger != "fleet" or settings.pooler == "transaction":
        return False
    at, dsn = settings.ledger_dsn, located(settings.dsn, kwargs)
    if at is None or callable(at) or callable(dsn):
        return at is None or at is dsn
    return database_name(at, "") == database_name(dsn, "")


def control_connect(settings: Settings, kwargs: Any) -> Connect:
    """What opens a control session. Its thread is not the pool's, whose kind does not matter.

    :param kwargs: the keywords of the application's connects, or a callable for them.
    """

    def connect(name: str, more: Mapping[str, Any]) -> psycopg.Connection[Any]:
        import psycopg

        from ..budget.fleet.control import Lost
        from ..pool.errors import describe

        try:
            dsn = settings.dsn if settings.ledger_dsn is None else settings.ledger_dsn
            conninfo = _answer(dsn() if callable(dsn) else dsn or "")
            insist_clear(conninfo)
            theirs: Any = {}
            if settings.ledger_dsn is None:
                theirs = _answer(kwargs() if callable(kwargs) else kwargs or {})
            given = {**of_libpq(theirs), **more, "application_name": name}
            return psycopg.Connection.connect(conninfo, autocommit=True, **given)
        except psycopg.Error as error:
            raise Lost(describe(error)) from None
        except PoolguardError as error:
            raise Lost(str(error)) from None
        except Exception as error:
            # The application's own callable has failed, with a text of which nothing is known.
            raise Lost(f"{type(error).__name__} of the callable that says where it is") from error

    return connect


def _answer(given: Any) -> Any:
    """What the application's callable has answered; it may be a coroutine."""
    return asyncio.run(_awaited(given)) if isawaitable(given) else given


async def _awaited(given: Any) -> Any:
    return await given
