"""What a guard was asked for, as its pool tells it to the history, and the history to the table."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from zlib import crc32

from ..budget.host.sharedfile import SUPPORTED
from ..errors import RuntimeDirError
from ..history.recorder import Recorder
from ..history.ring import SUFFIX, Ring
from ..history.telling import Seen
from ..pool.memory import Asked
from ..settings import Settings
from ..util.conninfo_location import database_name, located
from ..util.escape import escaped
from ..util.logs import logger
from ..util.rundir import RuntimeDir

if TYPE_CHECKING:
    from psycopg import Error

    from ..history.exchange import Exchange, Question

__all__ = ["GuardMemory", "open_memory"]

ALONE = "its history is kept on this host alone"
PART = 0.25
"""Of ``check_timeout``, what each statement of an exchange may take: the pool gives the connection
up after all of it."""
LONGEST, LOCKED = 250, 50
"""Milliseconds that it may take at most, as a new worker waits for it, and that it may wait for a
lock: other hosts hold theirs for less than one."""
BOUNDED = "SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {};"


class GuardMemory:
    """Implements :class:`poolguard.pool.memory.Memory` by the history of the guard.

    :param exchange: what it has in common with other hosts.
    :param rows: asks the server one thing (:func:`poolguard.budget.queries.rows`, or its async
        counterpart).
    :param timeout: seconds that an idle connection may be kept for.
    """

    asks = False

    def __init__(
        self,
        recorder: Recorder,
        exchange: Exchange | None = None,
        rows: Callable[..., Any] | None = None,
        timeout: float = 1.0,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._recorder = recorder
        self._exchange = exchange
        self._rows = rows
        self._within = max(1, min(LONGEST, int(1000 * PART * timeout)))
        self._wall = wall
        self._is_to_learn = exchange is not None

    def __repr__(self) -> str:
        return f"<GuardMemory {self._recorder!r}>"

    @property
    def reason(self) -> str:
        """Why the level is what it is, in a word."""
        return self._recorder.expected.reason

    def remember(self, asked: Asked) -> int:
        seen = Seen(asked.lent, asked.waiting, asked.created, max(asked.level, asked.floor))
        level = self._recorder.record(asked.until - asked.since, seen, asked.floor)
        if self._exchange is not None:
            with self._recorder.using() as ring:
                self.asks = ring is not None and self._exchange.is_due(ring, self._wall())
        return level

    async def ask(self, conn: Any) -> None:
        self.asks = False
        if self._exchange is None:
            return
        writes = conn.pgconn.parameter_status(b"in_hot_standby") != b"on"
        with self._recorder.using() as ring:
            if ring is None:
                return
            question = self._exchange.turn(ring, self._wall(), writes=writes)
        if question is not None:
            await self._put(conn, self._exchange, question, writes=writes)

    async def learn(self, conn: Any) -> bool:
        """Have the first connection read what the first decision looks at, where the host does not
        know it. Whether anything was read."""
        if self._exchange is None or not self._is_to_learn:
            return False
        self._is_to_learn = False
        with self._recorder.using() as ring:
            if ring is None or self._exchange.knows(ring, self._wall()):
                return False
            question = self._exchange.reading(ring, self._wall())
        if not await self._put(conn, self._exchange, question, writes=False):
            return False
        self._recorder.decide_anew()
        return True

    def close(self) -> None:
        self._recorder.close()

    async def _put(
        self, conn: Any, exchange: Exchange, question: Question, *, writes: bool
    ) -> bool:
        """Put *question* to the server; whether it has answered it."""
        from psycopg import Error

        from ..pool.jobs import done

        assert self._rows is not None
        query = BOUNDED.format(self._within, min(self._within, LOCKED)) + question.query
        refusal: Error | None = None
        row: Any = None
        try:
            [row] = await done(self._rows(conn, query, question.values, writes=writes))
        except Error as error:
            if conn.broken:
                raise
            refusal = error
        finally:
            self._note(conn, exchange, question, row, refusal)
        return row is not None

    def _note(
        self, conn: Any, exchange: Exchange, question: Question, row: Any, refusal: Error | None
    ) -> None:
        said = None
        with self._recorder.using() as ring:
            if ring is None:
                return
            if refusal is not None:
                from ..history.table import trouble

                why = trouble(exchange.table, refusal.sqlstate, conn.info.user)
                said = exchange.refused(ring, question, why)
            elif row is not None:
                said = exchange.answered(ring, question, row)
            else:
                exchange.lost(ring, question)
        if said is not None:
            logger.warning("poolguard %r: %s", ring.guard, escaped(f"{ALONE}: {said}"))


def open_memory(
    name: str,
    settings: Settings,
    kwargs: Mapping[str, Any] | Callable[[], Any] | None,
    rows: Callable[..., Any],
) -> GuardMemory | None:
    """The memory of the guard called *name*; None where there is to be none, or cannot be.

    *rows* is as :class:`GuardMemory` has it.
    """
    if settings.history == "off" or not SUPPORTED:
        return None
    database = database_name(located(settings.dsn, kwargs), name)
    file = f"{database}-{crc32(name.encode(errors='surrogateescape')):08x}{SUFFIX}"
    try:
        folder = RuntimeDir(settings.runtime_dir)
        try:
            recorder = Recorder(Ring(folder, file, name))
        finally:
            folder.close()
    except RuntimeDirError as error:
        # Whoever needs the folder for more says so.
        logger.debug("poolguard %r: %s. Nothing is learned from what is needed", name, error)
        return None
    return GuardMemory(recorder, _exchange(settings.history), rows, settings.check_timeout)


def _exchange(history: str) -> Exchange | None:
    """What is had in common with other hosts by that setting, if anything is."""
    if not history.startswith("database"):
        return None
    from ..history.exchange import Exchange  # most processes need nothing of it
    from ..history.table import Table

    table = Table.of(history)
    return None if table is None else Exchange(table)
