"""The hosts of a fleet that have come lately: as many more are to be expected. Pure: time is an
argument."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["ARRIVING", "Arrivals"]

ARRIVING = 1.5
"""Seconds for which a host counts as one that has just come."""


class Arrivals:
    """When the hosts came that have come lately, by their control sessions."""

    def __init__(self) -> None:
        self._came: dict[int, float] = {}

    def __repr__(self) -> str:
        return f"<Arrivals of {sorted(self._came)}>"

    def note(self, at: float, pid: int) -> None:
        """A host has joined."""
        self._came[pid] = max(at, self._came.get(pid, at))

    def note_all(self, now: float, ages: Mapping[int, float]) -> None:
        """For so many seconds control sessions have been there."""
        self._came = {pid: at for pid, at in self._came.items() if now - at < ARRIVING}
        for pid, age in ages.items():
            if age < ARRIVING:
                self.note(now - age, pid)

    def expected(self, now: float, me: int) -> int:
        """How many hosts may come at any moment: as many as have just come, beside *me*. They come
        together, as a service is started or rolled out, or as its server comes back."""
        return sum(now - at < ARRIVING for pid, at in self._came.items() if pid != me)
