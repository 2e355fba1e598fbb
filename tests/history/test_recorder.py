"""What one process records, by a clock that the test sets."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from poolguard.history.recorder import Recorder
from poolguard.history.ring import SUFFIX, Ring
from poolguard.history.telling import MOST_BETWEEN, Seen
from poolguard.util.rundir import RuntimeDir

NOW = 29_000_000
"""Some minute of the year 2025."""


def test_each_minute_between_two_looks_is_recorded(tmp_path: Path) -> None:
    """A process has room in the file for two of them, and a pool may be looked at less often."""
    with closing(RuntimeDir(tmp_path / "run")) as folder:
        ring = Ring(folder, f"shop{SUFFIX}", "default")
        recorder = Recorder(ring, wall=lambda: 60.0 * NOW)
        recorder.record(60.0 * MOST_BETWEEN, Seen(lent=3, level=4), floor=1)
        found = ring.read(NOW - MOST_BETWEEN, NOW)
        recorder.close()
    assert [demand and (demand.one, demand.level) for demand in found] == [(3, 4)] * MOST_BETWEEN
