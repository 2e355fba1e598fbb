"""What all parts of ``fleet`` go by."""

from __future__ import annotations

from dataclasses import dataclass

from .record import Record

__all__ = ["Stage"]


@dataclass(frozen=True, slots=True)
class Stage:
    """How long all is played, and by which numbers."""

    quick: bool
    minutes: float
    seed: int
    record: Record
