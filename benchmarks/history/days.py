"""*days*: the day of ``story``, told three days in a row, beside the limit.

poolguard is at its defaults, and nothing is known on the first day. The history's clock is in fast
motion (:mod:`benchmarks.apps.motion`), and passes the hours without traffic faster than the others.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from math import nan
from time import monotonic, time

from poolguard.cli.report.summary import BURST, percentile
from poolguard.history.minutes import NOTHING, Demand
from poolguard.history.ring import histories
from poolguard.lab.result import Run, Span
from poolguard.lab.story import Phase, Story
from poolguard.telemetry.recorded import spans_of
from poolguard.util.rundir import RuntimeDir

from ..apps.motion import Motion, begin, environ
from ..contest.conditions import Conditions
from ..contest.contenders import CONTENDERS, Contender
from ..contest.frame import limit_of
from ..contest.rounds import Rounds, play_rounds
from ..contest.stage import Event, Serving, Stage, stage
from ..story import DAY
from ..table import Row, Table

ROUNDS = 1
"""Of three days: it takes twenty minutes."""
GOALS = {"calm": 1.1, "burst": 1.3, "created": 0.0, "waited": 0.0, "failed": 0.0}
"""Of all days but the first. A slowest request is judged by the median of these: the limit's own
days differ from each other by more than a tenth."""
CONNECT_DELAY = 0.1
EARLY = 0.5
"""Hours before a day's traffic: then the pool gets ready for it."""
LAG_MOST = 0.1
"""Seconds: a run is forty times as long as one of ``story``, and on a machine that does little else
its generator was once late by 60 to 75 ms, in the limit's runs and in poolguard's alike."""
SETTLED = 1.0
"""Seconds after the traffic in which the workers' spans are written."""
OUTCOME = "poolguard.acquire.outcome"
LATE = ("created", "waited")
"""Outcomes of the acquires that found no connection free."""
LEVELS = ("cold", "ramp", BURST)


@dataclass(frozen=True, slots=True)
class Pace:
    """How many days there are, and how many seconds an hour of them takes."""

    days: int = 3
    early: float = 20.0
    """Before the traffic. In the twenty minutes for which a pool looks ahead it opens all that it
    may have, 120 connections, two at a time as in real time. (Where every hour took 2 seconds, 32
    had to be opened at a time.)"""
    busy: float = 10.0
    """Twenty minutes are enough to open what the ramp, or the burst, needs beyond that."""
    night: float = 5.0
    rest: float = 1.5
    """Where there is no traffic."""

    @property
    def motion(self) -> Motion:
        """How a day's hours pass. It begins with the traffic."""
        traffic = [(each.seconds, self._of(each)) for each in DAY.phases]
        rest = 24 - DAY.seconds - EARLY
        return Motion([*traffic, (rest, self.rest), (EARLY, self.early)], self.busy)

    @property
    def day(self) -> Story:
        """One day, whose phases last hours."""
        phases = [replace(each, seconds=each.seconds * self._of(each)) for each in DAY.phases]
        silent = self.motion.day - sum(each.seconds for each in phases)
        return Story((*phases, Phase("rest", "no traffic", silent, 0.0, 0.0)))

    def _of(self, phase: Phase) -> float:
        return self.night if phase.name == "night" else self.busy

    @property
    def story(self) -> Story:
        """All days."""
        return Story(self.day.phases * self.days)

    def starts(self, phase: str) -> float:
        """Seconds from a day's beginning to that of a phase."""
        return next(start for each, start, _ in self.day.bounds() if each.name == phase)

    def minute(self, after: float) -> int:
        """Minutes of the history that have passed so many seconds after the traffic's beginning."""
        return int(self.motion.shows(after) - self.motion.shows(0.0)) // 60


QUICK = Pace(days=2, early=1.0, busy=0.5, night=0.25, rest=0.05)


@dataclass(frozen=True, slots=True)
class Lived:
    """What is read off one day of a run."""

    calm: Sequence[float]
    """Seconds that each request outside the burst took, in their order."""
    burst: Sequence[float]
    """The same of those in it."""
    failed: int
    late: Sequence[str]
    """Outcomes of the acquires outside the burst that found no connection free."""

    @property
    def slowest(self) -> float:
        """Outside the burst."""
        return self.calm[-1]

    @property
    def most(self) -> float:
        """What 99.9 % of those outside the burst took at most."""
        return percentile(self.calm, 0.999) or 0.0

    @property
    def slowest_in_burst(self) -> float:
        return self.burst[-1]


def lived(run: Run, pace: Pace, day: int) -> Lived:
    """The day of that number, from 0, of a *run* whose spans have the times of its samples."""
    samples = [sample for sample in run.samples if sample.at // pace.motion.day == day]
    begins = day * pace.motion.day + pace.starts(BURST)
    ends = day * pace.motion.day + pace.starts("rest")
    late = [span for span in run.spans if span.start // pace.motion.day == day]
    return Lived(
        sorted(sample.latency for sample in samples if sample.phase != BURST),
        sorted(sample.latency for sample in samples if sample.phase == BURST),
        sum(sample.failed for sample in samples),
        [str(span.attributes[OUTCOME]) for span in late if not begins <= span.start < ends],
    )


FIGURES: dict[str, Callable[[Lived], float]] = {
    "calm": lambda day: day.slowest,
    "99.9 %": lambda day: day.most,
    "burst": lambda day: day.slowest_in_burst,
}
"""Those that are compared with the limit's."""
NOTES = (
    "calm: the slowest request outside the burst; 99.9 %: what so many of these took at most; "
    "burst: the slowest in it; each ÷ that of the same load over connections that are always open, "
    "in the median of its days of the same round",
    "created, waited: requests outside the burst whose connection was opened for them, or that "
    "waited for another's",
    "level: connections that are to be kept warm as the day, its ramp and its burst begin",
)


@dataclass(slots=True)
class Days:
    """The days of each contender on one stage."""

    on: Stage
    pace: Pace
    minutes: dict[str, list[Demand]] = field(default_factory=dict)
    """What the history of a contender has of each minute since the traffic began, in its last
    run."""

    @property
    def setting(self) -> Conditions:
        """Upkeep is not in fast motion, so that no hour is."""
        return Conditions(query=0.25, poolguard=dict(environ(self.pace.motion)))

    def play(self, contender: Contender) -> Run:
        """All days of one. Its run has a span of each acquire that found no connection free."""
        spans: list[Span] = []
        began: list[float] = []

        def start(serving: Serving) -> None:
            begin(serving.folder, monotonic())
            began.append(time())

        def end(serving: Serving) -> None:
            if contender.guarded:
                spans.extend(_late(serving, began[0]))
                self.minutes[contender.name] = self._recorded(serving)

        story = self.pace.story
        events = [Event(0.0, start), Event(story.seconds + SETTLED, end)]
        run = self.on.play(contender, self.setting, story, events=events)
        return replace(run, spans=tuple(spans))

    def _recorded(self, serving: Serving) -> list[Demand]:
        shows = self.pace.motion.shows
        with closing(RuntimeDir(serving.folder / "run")) as folder:
            [history] = histories(folder)
            with closing(history):
                first, end = (int(shows(at)) // 60 for at in (0.0, self.pace.story.seconds))
                return [each or NOTHING for each in history.read(first, end)]

    def rows(self, contender: Contender, rounds: Rounds) -> Iterator[Row]:
        """A row for each day, and one for all but the first, which is judged; none where it was not
        measured."""
        if not rounds.of(contender.name):
            return
        figures = [self._figures(contender, rounds, day) for day in range(self.pace.days)]
        for day, each in enumerate(figures):
            yield Row(f"{contender.name}, day {day + 1}", each)
        later = {name: [n for each in figures[1:] for n in each[name]] for name in figures[0]}
        yield Row(f"{contender.name}, later", later, GOALS if contender.judged else {})

    def _figures(
        self, contender: Contender, rounds: Rounds, day: int
    ) -> dict[str, Sequence[float]]:
        runs = [lived(run, self.pace, day) for run in rounds.of(contender.name)]
        figures: dict[str, Sequence[float]] = {"slowest, s": [each.slowest for each in runs]}
        for name, figure in FIGURES.items():
            figures[name] = self._relative(figure, contender, rounds, day)
        if contender.guarded:
            figures |= {each: [run.late.count(each) for run in runs] for each in LATE}
        figures["failed"] = [run.failed for run in runs]
        if contender.guarded:
            minutes, begun = self.minutes[contender.name], day * self.pace.motion.day
            for phase in LEVELS:
                at = self.pace.minute(begun + self.pace.starts(phase))
                figures[f"level: {phase}"] = [minutes[at].level]
        return figures

    def _relative(
        self, figure: Callable[[Lived], float], contender: Contender, rounds: Rounds, day: int
    ) -> list[float]:
        found = []
        for ours, limit in rounds.pairs(contender.name, limit_of(contender)):
            unit = [figure(lived(limit, self.pace, each)) for each in range(self.pace.days)]
            found.append(figure(lived(ours, self.pace, day)) / statistics.median(unit))
        return found or [nan]  # the limit was not measured: no goal is met by that


def play_days(*, quick: bool = False) -> Table:
    """Have them played by poolguard and the limit, in threads and in an event loop."""
    pace = QUICK if quick else Pace()
    contenders = [each for each in CONTENDERS if each.setting == "limit" or each.judged]
    with stage(quick=quick) as on, on.database.network(connect_delay=CONNECT_DELAY):
        days = Days(on, pace)
        rounds = play_rounds(contenders, 1 if quick else ROUNDS, days.play, LAG_MOST)
        budget = on.plan(days.setting).budget
    rows = [row for each in contenders for row in days.rows(each, rounds)]
    title = (
        f"days: {pace.days} in a row, each of {pace.motion.day:.0f} s; an hour with traffic takes "
        f"{pace.busy:g} s; at most {budget} connections"
    )
    return Table(title, rows, [*NOTES, *rounds.notes()])


def _late(serving: Serving, began: float) -> Iterator[Span]:
    """The acquires that found no connection free, in seconds since the traffic began."""
    for path in serving.folder.glob("*.spans"):
        for line in path.read_text().splitlines():
            for span in spans_of(json.loads(line)):
                if span and span.attributes.get(OUTCOME) in LATE:
                    yield replace(span, start=span.start - began, end=span.end - began)
