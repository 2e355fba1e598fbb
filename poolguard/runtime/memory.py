"""What a guard was asked for, as its pool tells it to the history."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from zlib import crc32

from ..budget.host.sharedfile import SUPPORTED
from ..errors import RuntimeDirError
from ..history.recorder import Recorder
from ..history.ring import SUFFIX, Ring
from ..history.telling import Seen
from ..pool.memory import Asked
from ..settings import Settings
from ..util.conninfo_location import database_name, located
from ..util.logs import logger
from ..util.rundir import RuntimeDir

__all__ = ["GuardMemory", "open_memory"]


class GuardMemory:
    """Implements :class:`poolguard.pool.memory.Memory` by the history of the guard."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __repr__(self) -> str:
        return f"<GuardMemory {self._recorder!r}>"

    @property
    def reason(self) -> str:
        """Why the level is what it is, in a word."""
        return self._recorder.expected.reason

    def remember(self, asked: Asked) -> int:
        seen = Seen(asked.lent, asked.waiting, asked.created, max(asked.level, asked.floor))
        return self._recorder.record(asked.until - asked.since, seen, asked.floor)

    def close(self) -> None:
        self._recorder.close()


def open_memory(
    name: str, settings: Settings, kwargs: Mapping[str, Any] | Callable[[], Any] | None
) -> GuardMemory | None:
    """The memory of the guard called *name*; None where there is to be none, or cannot be."""
    if settings.history == "off" or not SUPPORTED:
        return None
    database = database_name(located(settings.dsn, kwargs), name)
    file = f"{database}-{crc32(name.encode(errors='surrogateescape')):08x}{SUFFIX}"
    try:
        folder = RuntimeDir(settings.runtime_dir)
        try:
            return GuardMemory(Recorder(Ring(folder, file, name)))
        finally:
            folder.close()
    except RuntimeDirError as error:
        # Whoever needs the folder for more says so.
        logger.debug("poolguard %r: %s. Nothing is learned from what is needed", name, error)
        return None
