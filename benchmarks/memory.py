"""``memory``: the memory, threads and descriptors of a worker: no pool, psycopg_pool, poolguard.

By worker class, with 1, 10 and 60 connections that are open all the time, and with the SDK of
OpenTelemetry and all of poolguard's telemetry on. Each in a fresh gunicorn with one worker, after
some requests. Differences are those of the same round.
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

Found = Mapping[Crew, Sequence[Taken]]
"""Of each crew the worker, with its master's memory, once a round."""


def _classes(worker_class: str, stage: Stage) -> Table:
    crews = kinds(worker_class, SIZES[::2] if stage.quick else SIZES, with_sdk=WITH_SDK)
    acts = {each: partial(_taken, stage, each) for each in crews}
    found = turns(1 if stage.quick else ROUNDS, acts)
    rows = [_row(each, found) for each in crews]
    rows += [_slope(who, found) for who in ("psycopg_pool", "poolguard")]
    notes = [
        "memory is the PSS of the worker and its master together: what the master has imported for "
        "its hooks is shared with the workers; more: than psycopg_pool with the same connections "
        "and the same SDK",
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
        "MiB": [one.pss / MIB for one in found[each]],
        "threads": [one.threads for one in found[each]],
        "descriptors": [one.descriptors for one in found[each]],
    }
    if each.who == "poolguard":
        pairs = zip(found[each], found[replace(each, who="psycopg_pool")], strict=True)
        figures["more, MiB"] = [(ours.pss - theirs.pss) / MIB for ours, theirs in pairs]
    return Row(str(each), figures)


def _slope(who: Who, found: Found) -> Row:
    by_size = {
        each.size: of for each, of in found.items() if each.who == who and not each.telemetry
    }
    few, many = min(by_size), max(by_size)
    pairs = [*zip(by_size[few], by_size[many], strict=True)]
    more = {
        "KiB": [(b.pss - a.pss) / (many - few) for a, b in pairs],
        "descriptors": [(b.descriptors - a.descriptors) / (many - few) for a, b in pairs],
    }
    return Row(f"each connection: {who}", more)


PARTS: Mapping[str, Part] = {name: partial(_classes, name) for name in ("sync", "gthread", "asgi")}
run = partial(measure, "memory", PARTS)
