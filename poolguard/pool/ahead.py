"""Connections that are opened before anybody asks for one: how many, and when to look."""

from __future__ import annotations

from math import isqrt

__all__ = ["Ahead", "for_company", "lent_at_most"]

AGAIN = 1.0
"""Seconds until it is tried again to open those for which there was no slot."""


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


class Ahead:
    """What one pool knows of those it opens ahead. Times by the monotonic clock.

    :param at_once: how many acquires can be under way at once; none is opened for more.
    """

    def __init__(self, at_once: float) -> None:
        self.at_once = at_once
        self.expected = 0
        """Connections that the pool will likely use, before it can know by itself: a worker that
        takes the place of another needs as many."""
        self.not_before = 0.0
        """There was no slot for one just now."""
        self.low_water = 0
        """With fewer idle connections than this, the pool is to be looked at: one may be due."""

    def fell_short(self, now: float) -> None:
        """The ledger had fewer slots than were asked for."""
        self.not_before = now + AGAIN

    def looked(self, now: float, *, lent: int, idle: int, size: int, most: float) -> None:
        """The pool was looked at: it has *size* connections, those being opened included, and may
        have *most* (0: no more than it has)."""
        full = size >= min(self.at_once, most) or now < self.not_before
        self.low_water = 0 if full else max(0, lent + idle - lent_at_most(size))
