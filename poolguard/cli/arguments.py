"""Numbers that options take, checked while argparse reads them."""

from __future__ import annotations

import argparse

__all__ = ["from_zero", "positive"]


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def from_zero(text: str) -> int:
    """A whole number from 0."""
    return 0 if text == "0" else positive(text)
