"""A finding: what ``poolguard check`` judges, and what a fleet's status says beside its table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Finding", "Level"]

Level: TypeAlias = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One judgement, its reason, and what to do about it."""

    level: Level
    topic: str
    found: str
    remedy: str = ""
