"""How many connections to have open before anybody asks for one. Pure arithmetic."""

from __future__ import annotations

from math import isqrt

__all__ = ["for_company", "lent_at_most"]


def for_company(lent: int) -> int:
    """How many connections to have while *lent* of them are lent: their square root more.

    Requests that come when they like, n under way on average, are now and then by √n more: a
    Poisson distribution's standard deviation. So few idle connections let nearly all of them find
    one, and also those of a load that grows by √n while a connect takes its time. (The square-root
    rule by which call centres are staffed: Halfin and Whitt 1981.) One that is lent alone promises
    no company: a program that does one thing after the other never needs a second.
    """
    return lent + isqrt(lent) if lent > 1 else lent


def lent_at_most(size: int) -> int:
    """How many of *size* connections may be lent before one more is to be opened ahead."""
    lent = size - isqrt(size)
    while for_company(lent + 1) <= size:
        lent += 1
    return lent
