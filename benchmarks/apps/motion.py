"""A history in fast motion: in a worker of poolguard, a day of its clock takes a minute or two.

Only what follows that clock is faster, and four durations that stand for minutes of it. The rest of
the pool's upkeep takes the time that it always takes: connects, how many of them are begun at once
ahead of the traffic, verifying idle connections, replacing old ones, the status file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from time import monotonic
from typing import Any

HOUR = 3600.0
MIDNIGHT = 20_000 * 24 * HOUR
"""When the first day begins, in the history's clock: in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Motion:
    """How the hours of a day pass. Every day is the same."""

    pieces: Sequence[tuple[float, float]]
    """(hours, seconds that each of them takes), one after the other."""
    hour: float
    """Seconds that stand for an hour in what does not follow the clock."""

    def __post_init__(self) -> None:
        if not isclose(sum(hours for hours, _ in self.pieces), 24):
            raise ValueError(f"a day has 24 hours, and not those of {self.pieces}")

    @property
    def day(self) -> float:
        """Seconds that a day takes."""
        return sum(hours * pace for hours, pace in self.pieces)

    def shows(self, after: float) -> float:
        """What the history's clock shows so many seconds after the first day's beginning. It stands
        still before."""
        days, left = divmod(max(0.0, after), self.day)
        shown = MIDNIGHT + days * 24 * HOUR
        for hours, pace in self.pieces:
            taken = min(left, hours * pace)
            shown += taken / pace * HOUR
            left -= taken
        return shown


class Clock:
    """The history's clock in one process. It stands still until the traffic begins.

    :param begun: the file that says when that is: see :func:`begin`.
    """

    def __init__(self, motion: Motion, begun: Path) -> None:
        self._motion = motion
        self._file = begun
        self._begun: float | None = None

    def at(self, moment: float) -> float:
        """What it shows at that moment of the monotonic clock."""
        if self._begun is None:
            try:
                self._begun = float(self._file.read_text())
            except (FileNotFoundError, ValueError):
                return self._motion.shows(0.0)
        return self._motion.shows(moment - self._begun)

    def __call__(self) -> float:
        return self.at(monotonic())


def begin(folder: Path, moment: float) -> None:
    """Say to the workers of that *folder* when the first day has begun, by the monotonic clock."""
    (folder / "begun").write_text(repr(moment))


def environ(motion: Motion) -> Iterator[tuple[str, str]]:
    """The variables of a worker whose history is in this motion."""
    yield "SERVICE_MOTION", json.dumps([motion.pieces, motion.hour])
    # 30 minutes of the history: the pool closes by then what the day does not need any more.
    yield "POOLGUARD_IDLE_TIMEOUT", str(motion.hour / 2)


def hasten(text: str, folder: str) -> None:
    """Have the histories of this process go by the motion that *text* describes."""
    from poolguard.history.recorder import Recorder
    from poolguard.pool import expected, upkeep
    from poolguard.runtime import memory

    pieces, hour = json.loads(text)
    motion = Motion(pieces, hour)
    clock = Clock(motion, Path(folder, "begun"))
    minute = hour / 60

    class Hastened(Recorder):
        """By that clock, which has also gone further since the last look."""

        def __init__(self, ring: Any) -> None:
            super().__init__(ring, clock)

        def record(self, seconds: float, *seen: Any) -> int:
            now = monotonic()
            return super().record(clock.at(now) - clock.at(now - seconds), *seen)

    vars(memory)["Recorder"] = Hastened
    # Three times a minute: twelve times, as in real time, would be seventy times a second.
    every = minute / 3
    expected.TOLD_EVERY = expected.TOLD_AT_REST = every
    expected.Expected.asked = _soon(expected.Expected.asked, every)  # type: ignore[method-assign]
    # Five minutes without use in which what was kept for a level that has fallen is closed.
    upkeep.FALLEN = 5 * minute


def _soon(asked: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """Where nothing is lent, a pool in real time looks at itself at least every check_interval,
    which is less than a minute. Here it is hours, so that is to be told."""

    def also(self: Any, now: float, *arguments: Any) -> Any:
        told, again = asked(self, now, *arguments)
        return told, again or now + seconds

    return also
