"""The board of a fleet: what each host tells of itself, as its control session's application_name.

Every role may read it in ``pg_stat_activity``, and no table, extension or privilege is needed. A
server keeps 63 bytes of the name (``NAMEDATALEN``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from ...settings import MOST_SLOTS
from .keys import VERSION, Keys

__all__ = ["LONGEST", "Board", "Line", "prefix"]

LONGEST = 63
MOST_WORKERS = 999
_LINE = re.compile(
    r"poolguard (?P<version>\d+) (?P<label>[0-9a-f]{6}):(?P<host>[\w.-]*)"
    r" b(?P<budget>\d+) w(?P<workers>\d+) f(?P<floors>\d+) g(?P<granted>\d+) u(?P<used>\d+)"
    r" n(?P<need>\d+)(?P<marks>(?: [a-z])*)"
)
_ANY = re.compile(r"poolguard (?P<version>\d+) (?P<label>[0-9a-f]{6}):")
_STRANGE = re.compile(r"[^A-Za-z0-9_.-]+")


def prefix(keys: Keys, version: int | str = VERSION) -> str:
    """How the lines of the members of one fleet begin."""
    return f"poolguard {version} {keys.short}:"


class Line(NamedTuple):
    """What one host tells. All numbers but ``workers`` are connections."""

    host: str
    """Its name, or as much of the end of it as there is room for."""
    budget: int
    """The fleet's budget by its settings; 0 while it does not know it."""
    workers: int
    """Its processes that live and will not end."""
    floors: int
    """What its workers ask to be guaranteed, together."""
    granted: int
    """The slots that it was granted, its control session's left out."""
    used: int
    need: int
    """How many slots more it needs, and has not found."""
    draining: bool = False
    """It will end."""
    rejoined: bool = False
    """It has lately lost its control session, and with it what it had leased and not used."""

    def is_of(self, host: str) -> bool:
        """Whether a host of this name may have told it."""
        return _STRANGE.sub("_", host).endswith(self.host)

    def text(self, keys: Keys) -> str:
        """As it stands on the board. Its numbers always fit, and its name as far as it does."""
        connections = self.budget, self.floors, self.granted, self.used, self.need
        budget, floors, granted, used, need = (min(n, MOST_SLOTS) for n in connections)
        marks = (" d" if self.draining else "") + (" r" if self.rejoined else "")
        numbers = (
            f" b{budget} w{min(self.workers, MOST_WORKERS)} f{floors} g{granted} u{used}"
            f" n{need}{marks}"
        )
        room = max(0, LONGEST - len(prefix(keys)) - len(numbers))
        host = _STRANGE.sub("_", self.host)
        return f"{prefix(keys)}{host[-room:] if room else ''}{numbers}"


class Board(NamedTuple):
    """The lines of all hosts, by the pids of their control sessions."""

    lines: Mapping[int, Line] = {}
    strangers: frozenset[int] = frozenset()
    """Versions of the protocol that other members of the same label go by."""
    ages: Mapping[int, float] = {}
    """For how many seconds sessions have been there, as far as that is known."""

    @classmethod
    def of(cls, keys: Keys, rows: Collection[Mapping[str, Any]]) -> Board:
        """Make it of what :func:`.statements.board` asks for."""
        board = cls.read(keys, ((row["pid"], row["name"]) for row in rows))
        return board._replace(ages={row["pid"]: row["age"] for row in rows})

    @classmethod
    def read(cls, keys: Keys, rows: Iterable[tuple[int, str]]) -> Board:
        """Make it of the pids and application names of sessions; others' are passed over."""
        lines: dict[int, Line] = {}
        strangers: set[int] = set()
        for pid, name in rows:
            begins = _ANY.match(name)
            if begins is None or begins["label"] != keys.short:
                continue
            if int(begins["version"]) != VERSION:
                strangers.add(int(begins["version"]))
                continue
            found = _LINE.fullmatch(name)
            if found is not None:
                budget, workers, floors, granted, used, need = map(int, found.groups()[3:9])
                marks = found["marks"]
                lines[pid] = Line(
                    found["host"],
                    budget,
                    workers,
                    floors,
                    granted,
                    used,
                    need,
                    draining="d" in marks,
                    rejoined="r" in marks,
                )
        return cls(lines, frozenset(strangers))

    @property
    def budget(self) -> int:
        """The least of the budgets that members know; 0 where none does."""
        return min((line.budget for line in self.lines.values() if line.budget), default=0)
