"""What the workers of one gunicorn know of each other: a page of memory that the master shares.

At a reload gunicorn tells the old workers to end as soon as it has forked the new ones. Until those
serve nobody accepts, unless an old one looks here whether it is time to go. What concerns the whole
service is said by one of them.
"""

from __future__ import annotations

import mmap
import os
from zlib import crc32

__all__ = ["Generations"]

PLACES = 1000
"""So many workers back are known. A gunicorn that has forked more since has others to worry about.
"""
EXPECTED, SERVES = 0, -1
TOPICS = 64
"""Different things that may be said once."""


class Generations:
    """The workers of one gunicorn, by their age: it counts them as it forks them.

    Made in the master, before it forks.
    """

    def __init__(self) -> None:
        # Of each worker its pid while it boots. The first number is the newest one's age.
        self._page = memoryview(mmap.mmap(-1, 4 * (1 + PLACES + TOPICS))).cast("i")

    def __repr__(self) -> str:
        return f"<Generations newest={self._page[0]}>"

    def expect(self, age: int) -> None:
        """The master forks that worker next."""
        self._page[1 + age % PLACES] = EXPECTED
        self._page[0] = age

    def boot(self, age: int) -> None:
        """This process is that worker, and begins to boot."""
        self._page[1 + age % PLACES] = os.getpid()

    def serve(self, age: int) -> None:
        """That worker accepts from now on."""
        self._page[1 + age % PLACES] = SERVES

    def boots_after(self, age: int) -> bool:
        """Whether a worker that was forked later lives and does not serve yet."""
        newest = self._page[0]
        younger = range(max(age, newest - PLACES) + 1, newest + 1)
        return any(_boots(self._page[1 + each % PLACES]) for each in younger)

    def first_to_say(self, what: str) -> bool:
        """Whether no process of this gunicorn has asked this before, since :meth:`begin_anew`. Two
        that ask in the same instant may both be the first."""
        topic = 1 + PLACES + crc32(what.encode()) % TOPICS
        is_first = not self._page[topic]
        self._page[topic] = 1
        return is_first

    def begin_anew(self) -> None:
        """The configuration is another one: what was said may have to be said again."""
        for topic in range(TOPICS):
            self._page[1 + PLACES + topic] = 0


def _boots(state: int) -> bool:
    if state <= 0:
        return state == EXPECTED
    try:
        os.kill(state, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it has not dropped its privileges yet
    return True
