"""Where the recorded minutes come from: the histories of a runtime folder, only read."""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import PoolguardError
from ..history.minutes import DAY, KEPT, Demand, Past
from ..history.ring import histories
from ..settings import Settings
from ..util import rundir
from ..util.escape import escaped
from ..util.rundir import RuntimeDir
from .arguments import positive
from .folder import insist_on_ours

__all__ = ["Recorded", "days_kept", "recorded"]


SETTLED = 70.0
"""Seconds after its end in which a minute is recorded. Workers at rest look once in a minute."""


class Recorded(NamedTuple):
    """What is known of one guard."""

    guard: str
    past: Past
    end: int
    """The first minute that may not be recorded yet."""
    database: str
    """The guard's, as ledgers call it."""
    is_one_of_many: bool = False
    """There is another guard of that name, for another database."""

    @property
    def called(self) -> str:
        """The guard, as a heading names it."""
        of = f" of {self.database}" if self.is_one_of_many else ""
        return f"{escaped(self.guard)}{of}"

    def last(self, days: int) -> Sequence[Demand | None]:
        """The minutes of the last *days*."""
        return self.past.read(self.end - days * DAY, self.end)


def days_kept(text: str) -> int:
    """A number of days that may have been recorded, as an option's value."""
    found = positive(text)
    if found > KEPT // DAY:
        raise argparse.ArgumentTypeError(f"{text} days: no more than {KEPT // DAY} are kept")
    return found


def recorded(folder: Path | None, guard: str | None = None) -> list[Recorded]:
    """What the guards of *folder* have recorded, or only *guard*.

    :param folder: None: the one that the settings name.

    Raises :exc:`~poolguard.errors.PoolguardError` where there is nothing of that.
    """
    path = folder or Settings.build().runtime_dir or rundir.default_path()
    found = _opened(path)
    if not found:
        raise PoolguardError(_nothing(path))
    if guard is not None:
        names = ", ".join(sorted({each.guard for each in found}))
        found = [each for each in found if each.guard == guard]
        if not found:
            raise PoolguardError(
                f"no guard {guard} has a history in {path}: --guard may be one of {names}"
            )
    return found


def _opened(path: Path) -> list[Recorded]:
    """The histories of the folder. Nothing is made, and nothing written."""
    insist_on_ours(path)
    folder = RuntimeDir.found(path)
    if folder is None:
        return []
    now = int((time.time() - SETTLED) // 60)
    # Their descriptors are closed when this command ends.
    found = histories(folder)
    counted = Counter(each.guard for each in found)
    return [
        Recorded(each.guard, each, now, each.database, counted[each.guard] > 1) for each in found
    ]


def _nothing(path: Path) -> str:
    if not os.path.lexists(path):
        where = f"there is no runtime folder {path}, so nothing is recorded"
    else:
        where = f"nothing is recorded in the runtime folder {path} yet"
    history = Settings.build().history
    if history.startswith("database"):
        return f"{where} on this host: --database reads what all hosts have recorded"
    if history == "off":
        return f'{where}: POOLGUARD_HISTORY is "off". Leave it out, and workers record each minute'
    return (
        f"{where}. Workers that run record there each minute, unless their guard has "
        f'history="off". Run this as the workers\' user, and with their runtime_dir '
        f"(POOLGUARD_RUNTIME_DIR or --runtime-dir)"
    )
