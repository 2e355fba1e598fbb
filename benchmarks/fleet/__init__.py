"""``fleet``: one budget over many hosts: real gunicorns, in networks of their own where possible.

*peaks*: the connections of all hosts together, and through a deploy. *join*: how soon one more host
has its part. *warmup*: what joining adds to a worker's boot. *rest*: what a fleet costs that has
nothing to do. *faults*: for how long something is amiss where a part of it fails. *chaos*: hosts
come, go and are killed, links are cut, the server fails over. *simulation*: a thousand hosts, in
simulated time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from ..table import Table, show
from .digest import DIGEST as DIGEST
from .record import Record
from .stage import Stage

SEED = 1

Part = Callable[[Stage], Table]


def _part(name: str) -> Part:
    """The function of that name in the module of that name, which is imported when it is played."""

    def play(stage: Stage) -> Table:
        part: Part = getattr(import_module(f".{name}", __name__), name)
        return part(stage)

    return play


PARTS: Mapping[str, Part] = {
    name: _part(name)
    for name in ("peaks", "join", "warmup", "rest", "faults", "chaos", "simulation")
    if find_spec(f"{__name__}.{name}")
}


def run(
    *parts: str,
    quick: bool = False,
    minutes: float = 1.0,
    seed: int = SEED,
    record: Path | None = None,
) -> dict[str, Table]:
    """Play the chosen *parts*, or all, and print their tables.

    :param minutes: how long *chaos* lasts.
    :param seed: chooses what happens in it, and what clients ask.
    :param record: a file that is told all that went wrong, and what happened before.
    """
    return show("fleet", PARTS, parts, Stage(quick, minutes, seed, Record(record)))
