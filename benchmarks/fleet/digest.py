"""What of the fleet's tables stands in benchmarks/README.md."""

from __future__ import annotations

from collections.abc import Sequence

from ..readme import Digest, Place

__all__ = ["DIGEST"]

HEADS = ("ledger=host", "ledger=fleet")


def _peaks(scene: str, *, host: bool = False) -> Sequence[Sequence[Place]]:
    def cell(ledger: str) -> Sequence[Place]:
        return [Place("peaks", f"{scene}, ledger={ledger}", what) for what in ("peak", "over")]

    return [cell("host") if host else [], cell("fleet")]


def _fleet(part: str, who: str, *figures: str) -> Sequence[Sequence[Place]]:
    return [[], [Place(part, who, figure) for figure in figures]]


def _faults(*phases: str) -> Sequence[Sequence[Place]]:
    return [[], [Place("faults", phase, "seconds") for phase in phases]]


_JOINED = "from its control session on"
_WARM = [[Place("warmup", f"ledger={each}", "warm, s")] for each in ("host", "fleet")]

DIGEST = Digest(
    HEADS,
    {
        "2 hosts, budget 20: most connections / samples above it": _peaks("two hosts", host=True),
        "3 hosts, budget 20": _peaks("three hosts"),
        "a rolling deploy of 3, budget 20": _peaks("rolling deploy of three", host=True),
        "a rolling deploy of 8, budget 40": _peaks("rolling deploy of eight"),
        "a worker is warm, where a connect takes 0.1 s, s": _WARM,
        "a 4th host joins, all of 40 is in use: it has its floors / its fair share, s": _fleet(
            "join", _JOINED, "floors", "fair share"
        ),
        "at rest, a host and minute: control messages / the keeper's thread, ms": _fleet(
            "rest", "a host", "control messages", "keeper's thread, ms"
        ),
        "chaos, budget 40: events / most connections / samples above it": _fleet(
            "chaos", "fleet", "events", "peak", "over"
        ),
        "requests of it / failed with their connection or worker / failed otherwise": _fleet(
            "chaos", "fleet", "requests", "explained", "unexplained"
        ),
        "its control session is ended: a host has the next one, s": _faults(
            "control session ended: another has leased all"
        ),
        "its keeper is killed / stopped, and needed: a host has the next one, s": _faults(
            "keeper killed: the next has leased all",
            "keeper stopped, and needed: it is replaced",
        ),
        "a host is killed: another one has its slots, s": _faults(
            "host killed: a host that waits has a slot more"
        ),
        "the server restarts / fails over: all hosts have their floors, s": _faults(
            "server restarted: each has its floors",
            "failed over to a standby: each has its floors",
        ),
        "6 hosts join in one moment, all of 40 is in use: the last has its floors / sessions above "
        "40, s": _faults(
            "6 hosts join at once, where all of 40 is lent: the last has its floors",
            "6 hosts join at once, where all of 40 is lent: above the budget",
        ),
        "simulated, 1,000 hosts join in 10 s: floors / fair share, 99 of 100, s": _fleet(
            "simulation", "1000 hosts: all join", "floors", "fair"
        ),
        "simulated, one more joins 1,000": _fleet(
            "simulation", "1000 hosts: one joins", "floors", "fair"
        ),
    },
)
