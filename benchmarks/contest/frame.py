"""The frame of every contest: contenders in turn, round after round, and a row of each."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from poolguard.lab.load import GIVE_UP
from poolguard.lab.result import Run
from poolguard.lab.story import Story

from ..readme import Digest, Place
from ..server import CONNECT_DELAY, one_connect
from ..table import Row, Table, show
from .conditions import Conditions
from .contenders import CONTENDERS, LIMIT, POOLGUARD, Contender
from .rounds import Rounds, play_rounds
from .stage import Event, Stage, stage

ROUNDS = 2
SHOWN = (
    *(POOLGUARD, "psycopg_pool", "psycopg_pool tuned", "SQLAlchemy", "Django", "Django tuned"),
    *("connection per request", "PgBouncer", f"async {POOLGUARD}", "async psycopg_pool"),
    *("asyncpg", "asyncpg tuned", "knex", "knex tuned"),
)
"""Of whom benchmarks/README.md tells."""


@dataclass(frozen=True, slots=True)
class Played:
    """What the contenders did."""

    contenders: Sequence[Contender]
    stories: Sequence[Story]
    rounds: Sequence[Rounds]
    """One for each story."""
    connect: float
    """Seconds that a connect takes while nothing else happens."""

    def named(self, setting: str) -> list[str]:
        """Those with this setting that are not poolguard."""
        return [c.name for c in self.contenders if c.setting == setting and not c.guarded]


class Contest:
    """One part of a benchmark: what contenders play, and what is read off their runs."""

    notes: ClassVar[Sequence[str]]
    """What a reader must know of the figures."""
    quick: ClassVar[Collection[str]]
    """Who plays where it is only to be shown that it works."""
    variant: ClassVar[str] = ""
    """What the name of a contender ends with that plays a second time, under other conditions."""
    give_up: ClassVar[float] = GIVE_UP
    """Seconds after which a client has had enough."""
    connect_delay: float = CONNECT_DELAY
    stories: Sequence[Story]
    """What all play, one after the other."""
    quick_stories: Sequence[Story] = ()
    """The same where it is only to be shown that it works, if they are others then."""
    setting: Conditions
    """Under which conditions all play but the variants."""

    def absent(self, contender: Contender) -> str | None:
        """Why this one is not measured."""

    def varies(self, contender: Contender) -> bool:  # noqa: ARG002
        """Whether this one plays a second time."""
        return False

    def conditions(self, contender: Contender) -> Conditions:  # noqa: ARG002
        """Those of this one."""
        return self.setting

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
        return [*self._playing(each for each, why in reasons.items() if not why)], notes

    def table(self, on: Stage) -> Table:
        """Have it all played."""
        contenders, absent = self.field()
        if on.quick:
            contenders = [c for c in contenders if c.name.removesuffix(self.variant) in self.quick]
        stories = (on.quick and self.quick_stories) or self.stories
        with on.network(self.connect_delay):
            connect = one_connect(on.database.far)
            times = 1 if on.quick else ROUNDS
            rounds = [
                play_rounds(contenders, times, partial(self._play, on, story), on.say)
                for story in stories
            ]
        played = Played(contenders, stories, rounds, connect)
        here = [c for c in contenders if any(each.of(c.name) for each in rounds)]
        notes = dict.fromkeys(note for each in rounds for note in each.notes())
        rows = [self.row(contender, played) for contender in here]
        return Table(self.title(on, played), rows, [*self.notes, *absent, *notes])

    def _playing(self, contenders: Iterator[Contender]) -> Iterator[Contender]:
        for contender in contenders:
            yield contender
            if self.varies(contender):
                yield replace(contender, name=contender.name + self.variant)

    def _play(self, on: Stage, story: Story, contender: Contender) -> Run:
        events = self.events(on, contender)
        conditions = self.conditions(contender)
        return on.play(contender, conditions, story, events=events, give_up=self.give_up)


def contest(
    name: str, parts: Mapping[str, Contest], *chosen: str, quick: bool = False
) -> dict[str, Table]:
    """Play the *chosen* parts, or all, on one stage, and print a table of each."""
    with stage() as bare:
        on = partial(Stage, bare.database, bare.listener, bare.capacity, quick)
        return show(name, {part: each.table for part, each in parts.items()}, chosen, on)


def limit_of(contender: Contender) -> str:
    """The best that is possible for its kind."""
    return f"async {LIMIT}" if contender.kind == "async" else LIMIT


def digest(columns: Mapping[str, tuple[str, str]]) -> Digest:
    """For benchmarks/README.md: a row for each contender, of each column its part and figure."""
    rows = {who: [[Place(part, who, name)] for part, name in columns.values()] for who in SHOWN}
    return Digest(list(columns), rows)
