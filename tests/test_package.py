"""The package as a whole: what importing it brings along, its names, and which way imports run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

import poolguard

ROOT = Path(poolguard.__file__).parent
ROOMS = [
    {"__main__", "cli"},
    {"lab"},
    {"django", "sqlalchemy", "flask", "starlette", "fastapi"},
    {"gunicorn", "asgi", "wsgi"},
    {"usage"},
    {
        "overload",
        "green",
        "leaving",
        "succession",
        "_uvicorn",
        "guards",
        "opening",
        "asking",
        "readiness",
        "registry",
        "rehearsal",
        "reload",
        "status",
    },
    {"telemetry"},
    {"pool"},
    {"budget"},
    {"listener"},
    {
        "settings",
        "conninfo",
        "arguments",
        "parameters",
        "rundir",
        "errors",
        "escape",
        "clock",
        "acquirer",
        "rarely",
        "logs",
    },
]
"""From top to bottom: a file may import what is in its own room or below. ``guards.py`` is what the
design calls ``guard.py``; ``testing.py`` is for users, and may use everything."""
FREE = {"__init__", "testing"}


@pytest.mark.parametrize("module", ["poolguard", "poolguard.gunicorn"])
def test_importing_it_in_the_gunicorn_master_imports_no_driver(module: str) -> None:
    """psycopg chooses at import how it waits, so a gevent worker must have been patched before."""
    unwanted = {"psycopg", "psycopg_binary", "psycopg_pool", "opentelemetry", "gunicorn", "gevent"}
    script = f"import {module}, sys; print(*({unwanted!r} & sys.modules.keys()))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""


@pytest.mark.parametrize("name", poolguard.__all__)
def test_every_public_name_resolves(name: str) -> None:
    value = getattr(poolguard, name)
    assert value.__name__ == name
    assert value.__module__.startswith("poolguard.")


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Gaurd'"):
        _ = poolguard.Gaurd


def test_no_submodule_takes_the_place_of_a_public_name() -> None:
    """Importing ``poolguard/guard.py`` would put the module where the function ``guard`` is."""
    submodules = {path.stem for path in ROOT.iterdir()}
    assert not submodules & set(poolguard.__all__)


def test_it_says_that_it_has_types() -> None:
    assert (files("poolguard") / "py.typed").is_file()


# -- which way imports run ---------------------------------------------------------------------


def modules() -> Iterator[tuple[Path, list[str]]]:
    """Each file with its dotted place: ``["pool", "sync"]``."""
    for path in sorted(ROOT.rglob("*.py")):
        yield path, list(path.relative_to(ROOT).with_suffix("").parts)


def imported(path: Path, place: list[str]) -> Iterator[tuple[int, str]]:
    """The line and the room of everything that a file imports of poolguard, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif not isinstance(node, ast.ImportFrom):
            continue
        else:
            inside = ["poolguard", *place][: -node.level] if node.level else []
            base = inside + (node.module or "").split(".") if node.module else inside
            names = [[*base, alias.name] for alias in node.names]
        for name in names:
            if name[0] == "poolguard":
                yield node.lineno, room_of(name[1:])


def room_of(name: list[str]) -> str:
    """The room that a name below ``poolguard`` is from."""
    first = name[0] if name else "__init__"
    home = poolguard._HOMES.get(first, first)
    return "__init__" if first.startswith("__") and first != "__main__" else home.split(".")[0]


def height(room: str) -> int:
    [found] = [number for number, rooms in enumerate(reversed(ROOMS)) if room in rooms]
    return found


def test_every_file_has_a_room() -> None:
    for _, place in modules():
        if place[0] not in FREE:
            height(place[0])


def test_imports_run_one_way() -> None:
    upwards = [
        f"{path.relative_to(ROOT)}:{line} imports {room}"
        for path, place in modules()
        if place[0] not in FREE
        for line, room in imported(path, place)
        if room not in FREE and height(room) > height(place[0])
    ]
    assert upwards == []


def test_there_is_one_way_to_log() -> None:
    """A logger of one's own would be silenced where the application configures logging."""
    others = {
        str(path.relative_to(ROOT))
        for path, _ in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node).startswith("logging.getLogger('poolg")
    }
    assert others == {"logs.py"}


def test_only_telemetry_imports_opentelemetry() -> None:
    """The lab's example applications have an exporter to set up, as a user's would."""
    others = {
        place[0]
        for path, place in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        and "opentelemetry" in ast.unparse(node)
        and not getattr(node, "level", 0)
    }
    assert others <= {"telemetry", "lab"}
