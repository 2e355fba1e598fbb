"""What a program said when it failed, as one line for an error."""

from __future__ import annotations

__all__ = ["last_words"]


def last_words(text: str) -> str:
    """The last line of *text* that tells of an error, or where none does, the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL" in line or "error:" in line]
    return (telling or lines or ["it said nothing"])[-1]
