"""Code that is written once for sync and for async pools: as coroutines that wait as either does.

Where everything is sync nothing in such a coroutine ever waits for a loop, and :func:`drive` runs
it from its beginning to its end.
"""

from __future__ import annotations

import inspect
from collections.abc import Coroutine
from typing import Any

Job = Coroutine[Any, Any, Any]


def drive(job: Job) -> Any:
    """Run a coroutine that never waits for a loop."""
    try:
        job.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("a coroutine waits where there is no event loop")


async def got(value: Any) -> Any:
    """What a method of a sync or an async object returns."""
    return await value if inspect.isawaitable(value) else value
