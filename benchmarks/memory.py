"""``memory``: the memory, threads and descriptors of a worker: no pool, psycopg_pool, poolguard.

By worker class, with 1, 10 and 60 connections that are open all the time, and with the SDK of
OpenTelemetry and all of poolguard's telemetry on, and where gunicorn.conf.py imports psycopg. Each
in a fresh gunicorn with one worker, after some requests. Differences are those of the same round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from .crew import Crew, Part, Stage, Who, ask, kinds, measure, worker
from .processes import Taken, taken
from .table import Row, Table, turns

ROUNDS = 3
REQUESTS = 20
SIZES = (1, 10, 60)
WITH_SDK = 10
"""Connections of those who have an SDK."""
MIB = 1024
MOST_MORE = 1.0
"""MiB of its own that a worker may have more than with psycopg_pool."""

Found = Mapping[Crew, Sequence[Taken]]
"""Of each crew the worker, with its master's memory, once a round."""


def _classes(worker_class: str, stage: Stage) -> Table:
    crews = kinds(worker_class, SIZES[::2] if stage.quick else SIZES, with_sdk=WITH_SDK)
    crews.append(Crew("poolguard", worker_class, size=SIZES[0], shares_driver=True))
    acts = {each: partial(_taken, stage, each) for each in crews}
    found = turns(1 if stage.quick else ROUNDS, acts)
    rows = [_row(each, found) for each in crews]
    rows += [_slope(who, found) for who in ("psycopg_pool", "poolguard")]
    notes = [
        "private: the worker's own, which each further worker takes as well; together: the PSS of "
        "the worker and its master, which has imported what its workers share; more: than "
        "psycopg_pool with the same connections and the same SDK",
        "each connection: what lies between the fewest and the most of them, divided",
    ]
    return Table(f"{worker_class}: one worker, after {REQUESTS} requests", rows, notes)


def _taken(stage: Stage, each: Crew) -> Taken:
    with stage.running(each) as running:
        ask(running, REQUESTS)
        own = taken(worker(running))
        return own._replace(pss=own.pss + taken(running.pid).pss)


def _row(each: Crew, found: Found) -> Row:
    figures: dict[str, Sequence[float]] = {
        "private, MiB": [one.private / MIB for one in found[each]],
        "together, MiB": [one.pss / MIB for one in found[each]],
        "threads": [one.threads for one in found[each]],
        "descriptors": [one.descriptors for one in found[each]],
    }
    goals: dict[str, float] = {}
    if each.who == "poolguard":
        its_like = replace(each, who="psycopg_pool", shares_driver=False)
        pairs = [*zip(found[each], found[its_like], strict=True)]
        figures["more private, MiB"] = [(b.private - a.private) / MIB for b, a in pairs]
        figures["more together, MiB"] = [(b.pss - a.pss) / MIB for b, a in pairs]
        if not each.telemetry:
            goals["more private, MiB"] = MOST_MORE
    return Row(str(each), figures, goals)


def _slope(who: Who, found: Found) -> Row:
    by_size = {
        each.size: of
        for each, of in found.items()
        if each.who == who and not each.telemetry and not each.shares_driver
    }
    few, many = min(by_size), max(by_size)
    pairs = [*zip(by_size[few], by_size[many], strict=True)]
    more = {
        "KiB": [(b.private - a.private) / (many - few) for a, b in pairs],
        "descriptors": [(b.descriptors - a.descriptors) / (many - few) for a, b in pairs],
    }
    return Row(f"each connection: {who}", more)


PARTS: Mapping[str, Part] = {name: partial(_classes, name) for name in ("sync", "gthread", "asgi")}
run = partial(measure, "memory", PARTS)
