"""What has a connection: the thread, greenlet or task that takes it, or uses it.

A reference to one dies when it has ended, so that a connection left behind is found.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeAlias
from weakref import ref

__all__ = ["HERE", "Taker", "by_task_of", "by_thread"]


class _Thread:
    """A thread, or greenlet, for as long as it runs what this context was made for."""

    __slots__ = ("__weakref__", "ident", "reference")

    def __init__(self, ident: int) -> None:
        self.ident = ident
        self.reference = ref(self)


_THREAD: ContextVar[_Thread | None] = ContextVar("poolguard_thread", default=None)


class _Token:
    """Lives as long as one thread, or one greenlet where threads are patched."""

    __slots__ = ("__weakref__",)


class _Here(threading.local):
    def __init__(self) -> None:
        self._token = _Token()
        self.owner = ref(self._token)


HERE = _Here()
"""``HERE.owner`` is the running thread, or greenlet: a reference that dies when it has ended."""

Taker: TypeAlias = "ref[_Thread] | ref[asyncio.Task[Any]] | None"
"""What takes a connection. To refer to a task more strongly would keep all that it refers to."""


def by_thread() -> Taker:
    """What takes a connection of a sync pool: the running thread.

    A thread of a thread pool is another taker in each call for which it was given a context of its
    own, as by :func:`asyncio.to_thread`. The taker is gone when such a call has ended.
    """
    ident = threading.get_ident()
    thread = _THREAD.get()
    if thread is None or thread.ident != ident:
        thread = _Thread(ident)
        _THREAD.set(thread)
    return thread.reference


def by_task_of(loop: asyncio.AbstractEventLoop) -> Callable[[], Taker]:
    """Says what takes a connection of an async pool on *loop*: the running task."""

    def by_task() -> Taker:
        task = asyncio.current_task(loop)  # to look for the loop would take longer than all else
        return None if task is None else ref(task)

    return by_task
