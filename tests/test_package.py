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
    ["__main__"],
    ["cli"],
    ["lab"],
    ["__init__", "status", "testing"],
    ["django", "sqlalchemy", "flask", "starlette"],
    ["gunicorn", "asgi", "wsgi"],
    ["runtime"],
    ["worker"],
    ["telemetry"],
    ["pool", "history"],
    ["budget"],
    ["util"],
    ["settings"],
    ["errors"],
]
"""From top to bottom: a file may import what is in its own room, or below. Rooms that share a line
know nothing of each other, but for the doors: gunicorn's opens what ASGI's does."""


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
        _ = poolguard.Gaurd  # type: ignore[attr-defined]


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
    """The line and the dotted place of each file of poolguard's that this one imports: wherever it
    does, in a function too, or for its types only."""
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
                yield node.lineno, file_of(name[1:])


def file_of(name: list[str]) -> str:
    """The file that a name below ``poolguard`` is from."""
    if len(name) == 1:
        name = [*poolguard._HOMES.get(name[0], name[0]).split("."), *name]
    for n in range(len(name), 0, -1):
        for place in (name[:n], [*name[:n], "__init__"]):
            if ROOT.joinpath(*place).with_suffix(".py").is_file():
                return ".".join(place)
    return "__init__"


def height(room: str) -> int:
    [found] = [number for number, rooms in enumerate(reversed(ROOMS)) if room in rooms]
    return found


def test_every_file_has_a_room() -> None:
    known = {room for rooms in ROOMS for room in rooms}
    assert [path for path, place in modules() if place[0] not in known] == []


def test_imports_run_one_way() -> None:
    upwards = [
        f"{path.relative_to(ROOT)}:{line} imports {other}"
        for path, place in modules()
        for line, other in imported(path, place)
        if height(other.split(".")[0]) > height(place[0])
    ]
    assert upwards == []


def test_no_circle_is_left() -> None:
    """Nor one between files of the same room."""
    files = {
        ".".join(place): {other for _, other in imported(path, place)} for path, place in modules()
    }
    while True:
        done = {name for name, others in files.items() if not (others - {name}) & files.keys()}
        if not done:
            break
        files = {name: others for name, others in files.items() if name not in done}
    assert files == {}


def test_there_is_one_way_to_log() -> None:
    """A logger of one's own would be silenced where the application configures logging."""
    others = {
        str(path.relative_to(ROOT))
        for path, _ in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node).startswith("logging.getLogger('poolg")
    }
    assert others == {"util/logs.py"}


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


FRAMEWORKS = ("django", "sqlalchemy", "flask", "starlette", "fastapi", "celery")


def test_each_framework_is_imported_by_its_adapter_alone() -> None:
    """None is pulled in by who uses another."""
    others = {
        (place[0], name)
        for path, place in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        for name in absolute(node)
        if name in FRAMEWORKS and name != place[0]
    }
    assert others == set()


def absolute(node: ast.AST) -> list[str]:
    """The packages that an import names, but for our own by relative names."""
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level and node.module:
        return [node.module.partition(".")[0]]
    return []


# -- how large things are ----------------------------------------------------------------------

METHODS = (ast.FunctionDef, ast.AsyncFunctionDef)
MOST_METHODS = 20
"""Of a class' own: with more than that it does more than one thing."""


def test_no_class_has_grown_large() -> None:
    large = {
        f"{path.relative_to(ROOT)}: {node.name}": len(methods)
        for path, _ in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and len(methods := [each for each in node.body if isinstance(each, METHODS)]) > MOST_METHODS
    }
    assert large == {}
