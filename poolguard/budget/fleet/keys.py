"""The names of a fleet in its database: the classes of its advisory locks, its channel, its prefix.

All follow from the fleet's label, and from the protocol's version: members of another version meet
other locks. What they are told by is readable to all versions (:mod:`.board`).
"""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32

__all__ = ["DOOR", "VERSION", "Keys"]

VERSION = 1
"""Of the protocol: the meaning of the locks, and of what members tell each other."""
DOOR = 0
"""The slot that only a control session takes: a host can join though all others are lent."""


class Keys(NamedTuple):
    """The classes are the first of the two numbers of an advisory lock, and the slot's is the
    second (PostgreSQL manual, "Advisory Lock Functions")."""

    label: str
    lease: int
    """Held, shared, by the control session of the host that was granted the slot."""
    seat: int
    """Held by the pooled session that occupies the slot, for as long as its backend lives."""
    urgent: int
    """Held, shared, by the control sessions of hosts that need what is theirs by right, with 0 for
    the slot. With another number it is held by the one host that has this number."""

    @classmethod
    def of(cls, label: str) -> Keys:
        """The keys of the fleet that is called *label*."""
        return cls(label, *(_key(label, what) for what in ("lease", "seat", "urgent")))

    @property
    def short(self) -> str:
        """The label as it fits into an ``application_name``."""
        return f"{crc32(self.label.encode(errors='surrogateescape')) & 0xFFFFFF:06x}"

    @property
    def channel(self) -> str:
        """Where members notify each other."""
        return f"poolguard_{VERSION}_{self.short}"


def _key(label: str, what: str) -> int:
    text = f"poolguard fleet {VERSION} {label} {what}"
    unsigned = crc32(text.encode(errors="surrogateescape"))
    return unsigned - (1 << 32) if unsigned >> 31 else unsigned  # the server's integers are signed
