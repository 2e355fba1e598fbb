"""A job: what a pool does beside its users, written once for the sync and the async one.

Each job is one coroutine. The async pool runs it in a task. In the sync pool nothing of it waits
but in the thread that runs it, so that it is over at its first step.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

__all__ = ["Job", "at_once", "done"]

T = TypeVar("T")
Job = Coroutine[Any, Any, T]


async def done(what: Any) -> Any:
    """What a method of a connection, or a callback, answers: in an async pool it is awaited."""
    return await what if isinstance(what, Awaitable) else what


def at_once(job: Job[T]) -> T:
    """Run a job in which nothing is awaited to its end."""
    try:
        job.send(None)
    except StopIteration as end:
        answer: T = end.value
        return answer
    job.close()
    raise RuntimeError("something was awaited where nothing can be: is the pool not async?")
