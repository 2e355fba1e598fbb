"""How many connections more than are lent are to be there."""

from __future__ import annotations

from math import isqrt

__all__ = ["with_headroom"]


def with_headroom(lent: int) -> int:
    """How many connections to have while *lent* of them are lent: their square root more.

    Requests that come when they like, n under way on average, are now and then by √n more: a
    Poisson distribution's standard deviation. So few idle connections let nearly all of them find
    one, and also those of a load that grows by √n while a connect takes its time. (The square-root
    rule by which call centres are staffed: Halfin and Whitt 1981.) One that is lent alone needs
    none: a program that does one thing after the other never needs a second.
    """
    return lent + isqrt(lent) if lent > 1 else lent
