"""How a pool of either kind connects: never behind another connect, nor behind a return."""

from __future__ import annotations

import asyncio
from typing import Any

from psycopg import Error

from ..util.clock import now as clock
from ..util.conninfo import connects_its_own_way, insist_clear
from .block import is_plain
from .entry import Entry, silence
from .hosts import addresses
from .housekeeper import Housekeeper
from .jobs import done
from .outbox import logger
from .returning import Returning
from .session import arrive, bound_of, given_up, insist_idle, note_errors, place_of
from .upkeep import Opening

__all__ = ["Connecting", "all_are_served"]


def all_are_served(keeper: Housekeeper, now: float) -> bool:
    """There is nothing to be decided until the next connect has ended: each acquire that waits has
    one of its own under way, which is not late, and the floor stands."""
    counts = keeper.core.counts()
    if keeper.warm_after is None or not counts.waiting or counts.size < counts.min_size:
        return False
    return counts.waiting <= counts.opening - keeper.lifecycle.late(now).n


class Connecting(Returning):
    """A pool of either kind, as far as it opens connections."""

    connection_class: Any
    _last_bound: tuple[object, float] | None = None

    async def _open_one(self, opening: Opening) -> None:
        """Connect: never behind another connect, nor behind a return."""
        entry = opening.entry
        try:
            conn = await self._connect_one(entry)
        except asyncio.CancelledError:
            self._keeper.lifecycle.connect_cancelled(entry)
            self._ring()
            raise
        except Exception as error:  # noqa: BLE001 - whatever connecting raises, the pool goes on
            await self._not_opened(opening, error)
            return
        silence(conn)
        with self._mutex:
            self._keeper.lifecycle.connected(entry, opening.reason, place_of(conn), clock())
            fate = self._core.arrive(entry, clock())
            next_ones_ring = all_are_served(self._keeper, clock()) and not self._full
        await self._settle_all(conn, entry, fate)
        if not next_ones_ring:
            self._ring()  # before a listener can block
        self._keeper.outbox.tell()

    async def _connect_one(self, entry: Entry) -> Any:
        while True:
            made_with = self.kwargs
            try:
                return await self._dial(entry)
            except Error as error:
                with self._mutex:
                    again = self._may_connect_again(entry, error, made_with)
                if not again:
                    raise

    async def _dial(self, entry: Entry) -> Any:
        self._statistics.count("connections_num")
        conninfo = await done(self.conninfo() if callable(self.conninfo) else self.conninfo)
        self._tried = conninfo
        insist_clear(conninfo)
        kwargs = await done(self.kwargs() if callable(self.kwargs) else self.kwargs)
        began = clock()
        try:
            if self._is_async and not connects_its_own_way(self.connection_class):
                kwargs = {**kwargs, **await addresses(conninfo, kwargs)}
            conn = await done(self.connection_class.connect(conninfo, **kwargs))
        except Exception:
            self._statistics.count("connections_errors")
            raise
        self._statistics.count("connections_ms", 1000.0 * (clock() - began))
        conn._pool = self  # while it is configured it is the pool's, as psycopg sees it
        try:
            arrive(conn, entry, self._watch, self._keeper.leases)
            # What comes next has as long as the login had. An answer may be lost as well as a
            # login, and a question waits for it as long as TCP keeps the connection.
            entry.give_up_at = clock() + self._bound_of(conn, conninfo, kwargs)
            entry.plain = is_plain(type(conn))
            note_errors(conn, entry)
            if self._on_configure is not None:
                await done(self._on_configure(conn))
                insist_idle(conn, "configure", self._on_configure)
            if (late := given_up(entry)) is not None:
                raise late
        except BaseException as error:
            late = given_up(entry)
            await self._discard(conn)
            if late is not None and isinstance(error, Exception):
                raise late from error
            raise
        return conn

    def _bound_of(self, conn: Any, *asked: object) -> float:
        """Seconds that the login of a connection may have taken; *asked* is what it was made by."""
        last = self._last_bound
        if last is None or last[0] != asked:
            last = self._last_bound = asked, bound_of(conn)  # libpq makes much of telling it
        return last[1]

    async def _not_opened(self, opening: Opening, error: Exception) -> None:
        with self._mutex:
            gives_up = self._keeper.lifecycle.connect_failed(
                opening.entry, opening.reason, error, clock()
            )
        self._note_refusal()
        self._ring()  # before a listener can block
        self._keeper.outbox.tell()
        if gives_up:
            try:
                await done(self.reconnect_failed())
            except Exception as raised:  # noqa: BLE001 - as in psycopg_pool's workers
                kind = type(raised).__name__
                logger.warning("callback reconnect_failed failed: %s: %s", kind, raised)

    def reconnect_failed(self) -> Any:
        """Tell the ``reconnect_failed`` callback, as psycopg_pool's does."""
        if self._on_reconnect_failed is not None:
            return self._on_reconnect_failed(self)
        return None
