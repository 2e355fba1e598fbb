"""How many connections a worker is to keep warm now, by what was needed before. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isqrt, sqrt
from typing import Literal, NamedTuple, TypeAlias

from .minutes import DAY, Demand, Past

BEFORE, AHEAD = 5, 30
LAST = 60
HOLD = 30
DAYS, WEEKS = 7, 5
FADES = 0.8
WEEK_WEIGHT = 0.6
QUANTILE = 0.85
SCALE_MOST = 2.0
SCALE_LEAST = 1.0
TELLS = 1.3
POWER = 2
STEP = 5
PART = 4
HEAD = 1.0


Reason: TypeAlias = Literal["floor", "day", "week", "hour", "held"]


class Expected(NamedTuple):
    level: int
    reason: Reason


class Day(NamedTuple):
    age: int
    weight: float
    peak: float
    past_peak: int
    past_mean: float


def needs(read: Sequence[Demand | None]) -> list[int]:
    return [d[0] if d[0] >= d[2] else d[2] for d in read if d is not None]


def quantile(pairs, part):
    """Weighted, from above."""
    total = sum(w for _, w in pairs)
    seen = 0.0
    for v, w in sorted(pairs, reverse=True):
        seen += w
        if seen > (1 - part) * total:
            return v
    return 0


def decide(
    now: int,
    past: Past,
    *,
    floor: int,
    most: int,
    level: int,
    offset: Callable[[int], int] = lambda m: 0,
) -> Expected:
    last = needs(past.read(now - LAST, now + 1))
    mean = sum(last) / len(last) if last else 0.0
    recent = max(last[-HOLD - 1 :], default=0)
    days = {}

    def day(age):
        at = now - age * DAY
        at += offset(now) - offset(at)
        read = past.read(at - LAST, at + AHEAD)
        ahead = needs(read[LAST - BEFORE :])
        if not ahead:
            return None
        before = needs(read[:LAST])
        peak = max(ahead)
        if before and last:
            bm = sum(before) / len(before)
            w = min(1.0, TELLS * bm / peak) ** POWER if peak else 0
            scale = 1 + w * (mean / bm - 1) if bm else 1.0
            scale = min(SCALE_MOST, max(SCALE_LEAST, scale))
        else:
            bm, scale = 0.0, 1.0
        return Day(
            age, len(ahead) / (BEFORE + AHEAD), peak * scale, max(before[-HOLD:], default=0), bm
        )

    for age in (*range(1, DAYS + 1), *range(14, 7 * WEEKS + 1, 7)):
        if (d := day(age)) is not None:
            days[age] = d
    weekly = [days[a] for a in (7, 14) if a in days]
    if weekly:
        top = max(d.peak for d in weekly)
        top += sqrt(top)
        for age in range(1, 7):
            if age in days and days[age].peak > top:
                # unlike
                at = now - (age + 7) * DAY
                at += offset(now) - offset(at)
                c = needs(past.read(at - BEFORE, at + AHEAD))
                if c and max(c) > top:
                    del days[age]
    pairs, before = [], []
    for age, d in days.items():
        w = max(
            FADES ** (age - 1) if age <= DAYS else 0,
            WEEK_WEIGHT * FADES ** (age // 7 - 1) if age % 7 == 0 else 0,
        )
        pairs.append((d.peak, w * d.weight))
        before.append((d.past_peak, w * d.weight))
    need, reason = 0.0, "floor"
    known = 0.0
    if pairs:
        known = quantile(before, QUANTILE)
        need = quantile(pairs, QUANTILE)
        n = sum(w for _, w in pairs)
        if need > 1:
            need = need + HEAD * sqrt(need / max(1.0, n))
        reason = "day"
    if recent > known + sqrt(known) or not pairs:
        hold = recent + isqrt(recent) if recent > 1 else recent
        if hold > need:
            need, reason = hold, "hour"
    want = min(most, max(floor, int(need + 0.5)))
    if want <= floor:
        reason = "floor"
    if want >= level:
        return Expected(want, reason)
    if now % STEP:
        return Expected(level, "held")
    return Expected(level - max(1, (level - want) // PART), "held")


def decide_again(now: int, lent: int) -> int:
    return now + (1 if lent else 5)
