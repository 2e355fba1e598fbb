"""The frame of every contest: contenders in turn, round after round, and a row of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from psycopg import Connection

from poolguard.lab.load import GIVE_UP
from poolguard.lab.result import Run
from poolguard.lab.story import Story

from ..kinds import drive
from ..readme import Digest, Place
from ..server import CONNECT_DELAY, one_connect
from ..table import Row, Table, show
from .conditions import Conditions
from .contenders import CONTENDERS, LIMIT, POOLGUARD, Contender
from .rounds import Rounds, play_rounds
from .stage import Event, Stage, stage

ROUNDS = 2
QUICK = (
    *(LIMIT, POOLGUARD, "psycopg_pool", "PgBouncer"),
    *(f"async {LIMIT}", f"async {POOLGUARD}", "asyncpg", "knex"),
)
"""Who plays where it is only to be shown that it works."""


@dataclass(frozen=True, slots=True)
class Played:
    """What the contenders did."""

    contenders: Sequence[Contender]
    rounds: Rounds
    connect: float
    """Seconds that a connect takes while nothing else happens."""

    def named(self, setting: str) -> list[str]:
        """Those with this setting that are not poolguard."""
        return [c.name for c in self.contenders if c.setting == setting and not c.guarded]


class Contest:
    """One part of a benchmark: what contenders play, and what is read off their runs."""

    notes: ClassVar[Sequence[str]]
    """What a reader must know of the figures."""
    give_up: ClassVar[float] = GIVE_UP
    """Seconds after which a client has had enough."""
    connect_delay: float = CONNECT_DELAY
    story: Story
    """What all play."""
    setting: Conditions
    """Under which conditions all play."""

    def absent(self, contender: Contender) -> str | None:
        """Why this one is not measured."""

    def events(self, on: Stage, contender: Contender) -> Sequence[Event]:  # noqa: ARG002
        """What happens meanwhile."""
        return ()

    def title(self, on: Stage, played: Played) -> str:
        """What the table shows."""
        raise NotImplementedError

    def row(self, contender: Contender, played: Played) -> Row:
        """The figures of one that has played."""
        raise NotImplementedError

    def field(self) -> tuple[list[Contender], list[str]]:
        """Who is measured, and a note of each of the others: why it is not."""
        reasons = {contender: self.absent(contender) for contender in CONTENDERS}
        notes = [f"{each.name}: not measured: {why}" for each, why in reasons.items() if why]
        return [each for each, why in reasons.items() if not why], notes

    def table(self, on: Stage) -> Table:
        """Have it all played."""
        contenders, absent = self.field()
        if on.quick:
            contenders = [contender for contender in contenders if contender.name in QUICK]
        with on.database.network(connect_delay=self.connect_delay):
            connect = drive(one_connect(Connection, on.database.far))
            rounds = play_rounds(contenders, 1 if on.quick else ROUNDS, partial(self._play, on))
        played = Played(contenders, rounds, connect)
        rows = [self.row(each, played) for each in contenders if rounds.of(each.name)]
        return Table(self.title(on, played), rows, [*self.notes, *absent, *rounds.notes()])

    def _play(self, on: Stage, contender: Contender) -> Run:
        events = self.events(on, contender)
        return on.play(contender, self.setting, self.story, events=events, give_up=self.give_up)


def contest(
    name: str, parts: Mapping[str, Contest], *chosen: str, quick: bool = False
) -> dict[str, Table]:
    """Play the *chosen* parts, or all, on one stage, and print a table of each."""
    with stage(quick=quick) as on:
        return show(name, {part: each.table for part, each in parts.items()}, chosen, on)


def limit_of(contender: Contender) -> str:
    """The best that is possible for its kind."""
    return f"async {LIMIT}" if contender.kind == "async" else LIMIT


def digest(columns: Mapping[str, tuple[str, str]]) -> Digest:
    """For benchmarks/README.md: a row for each contender, of each column its part and figure."""
    whos = [contender.name for contender in CONTENDERS if contender.setting != "limit"]
    rows = {who: [[Place(part, who, name)] for part, name in columns.values()] for who in whos}
    return Digest(list(columns), rows)
