"""``warmup``: how much longer a worker takes to be warm, since its host has to join first."""

from __future__ import annotations

from functools import partial
from typing import Literal

from psycopg import Connection

from poolguard.lab.proxy import SlowProxy

from ..kinds import drive
from ..server import one_connect
from ..table import Row, Table, turns
from .hosts import Field, field
from .stage import Stage

__all__ = ["warmup"]

Ledger = Literal["host", "fleet"]
CONNECT = 0.1
ROUNDS = 9
LONGER = 1.5
"""Connects: the goal."""


def warmup(stage: Stage) -> Table:
    """One worker, whose host joins a fleet of one other; with each ledger in turn."""
    with (
        field(real=False) as there,
        SlowProxy(("127.0.0.1", there.server.port), connect_delay=CONNECT) as proxy,
    ):
        far = (proxy.host, proxy.port)
        there.started(1, place=far)
        connect = drive(one_connect(Connection, there.server.conninfo(host=far[0], port=far[1])))
        acts = {each: partial(_warm, there, each, far) for each in ("host", "fleet")}
        took = turns(1 if stage.quick else ROUNDS, acts)
    longer = [
        (ours - plain) / connect for ours, plain in zip(took["fleet"], took["host"], strict=True)
    ]
    rows = [
        Row("ledger=host", {"warm, s": took["host"]}),
        Row(
            "ledger=fleet",
            {"warm, s": took["fleet"], "longer, connects": longer},
            {"longer, connects": LONGER},
        ),
    ]
    title = f"warmup: until a worker is warm, a connect takes {connect * 1e3:.0f} ms"
    note = "longer: than with ledger=host in the same round, in connects"
    return Table(title, rows, [note])


def _warm(there: Field, ledger: Ledger, far: tuple[str, int]) -> float:
    """Seconds that the one worker of a new host took, as it tells."""
    [host] = there.started(1, ledger=ledger, workers=1, place=far)
    seconds = host.get("status")["warmup"]["seconds"]
    there.leave(host)
    return float(seconds)
