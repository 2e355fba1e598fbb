"""psycopg_pool's statistics of a pool: what it has, and what it has counted."""

from __future__ import annotations

from .core import Core

__all__ = ["Statistics"]


class Statistics:
    """One pool's statistics. What the core counts anyway is not counted here once more."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._counts: dict[str, float] = {}
        self._popped: tuple[float, ...] = (0, 0, 0.0, 0.0)
        """What the core had counted when the statistics were last taken away."""

    def count(self, name: str, n: float = 1) -> None:
        self._counts[name] = self._counts.get(name, 0) + n

    def get(self) -> dict[str, int]:
        """What the pool has now, and what it has counted since :meth:`pop`."""
        now = self._core.counts()
        free, queued, waited, usage = (
            n - popped for n, popped in zip(self._counted(), self._popped, strict=True)
        )
        counted = {
            **self._counts,
            "requests_num": free + queued + self._counts.get("requests_num", 0),
            "requests_queued": queued,
            "requests_wait_ms": 1000.0 * waited,
            "usage_ms": 1000.0 * usage,
        }
        return {name: int(n) for name, n in counted.items() if n > 0} | {
            "pool_min": now.min_size,
            "pool_max": now.max_size,
            "pool_size": now.size,
            "pool_available": now.idle,
            "requests_waiting": now.waiting,
        }

    def pop(self) -> dict[str, int]:
        """:meth:`get`, and count anew."""
        stats = self.get()
        self._popped = self._counted()
        self._counts = {}
        return stats

    def _counted(self) -> tuple[float, ...]:
        core = self._core
        return core.taken_free, core.queued, core.waited, core.usage
