"""mypy and pyright, both strict, find a user's files to be right, and each mistake in another.

They read poolguard as they do where it is installed: by its annotations, and whatever may be wrong
within it is none of the user's. The checkers come with the extra ``lint``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USERS = sorted((ROOT / "tests/typed/user").glob("*.py"))
MISTAKES = ROOT / "tests/typed/mistakes.txt"
"""Python, but for linters and for the mypy of the whole checkout."""
PUBLIC = [
    f"poolguard{name}"
    for name in (
        *("", ".asgi", ".django", ".flask", ".gunicorn", ".sqlalchemy", ".starlette", ".status"),
        *(".testing", ".wsgi"),
    )
]
CHECKERS_REQUIRED = "CI_REQUIRES_CHECKERS"

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

Found = dict[str, list[str]]
"""What a checker says of each line: ``{"shop.py:12": ["…"]}``."""


def run(module: str, *arguments: str, folder: Path, **environ: str) -> tuple[str, str]:
    """Run a checker in *folder*; returns what it has printed. Without one the test is skipped."""
    if importlib.util.find_spec(module) is None:
        said = f"{module} is not installed: pip install -e '.[test,lint]'"
        if os.environ.get(CHECKERS_REQUIRED) == "1":
            pytest.fail(f"{CHECKERS_REQUIRED}=1, but {said}")
        pytest.skip(f"{said} ({CHECKERS_REQUIRED}=1 makes this a failure)")
    ran = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    return ran.stdout, ran.stderr


@pytest.fixture
def mypy(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Found]:
    """Checks files with mypy, as ``mypy --strict`` in a folder without a configuration."""
    cache = tmp_path_factory.getbasetemp() / "mypy"

    def check(*files: Path) -> Found:
        names = [copied(each, tmp_path).name for each in files]
        out, err = run(
            "mypy",
            *("--strict", "--config-file=", "--follow-imports=silent", "--no-error-summary"),
            *("--hide-error-context", "--no-pretty", "--no-color-output", "--python-version=3.10"),
            f"--cache-dir={cache}",
            *names,
            folder=tmp_path,
            MYPYPATH=str(ROOT),
        )
        assert err == ""
        lines = (re.fullmatch(r"(\S+:\d+): (?!note)(.*)", line) for line in out.splitlines())
        return by_line((line[1], line[2]) for line in lines if line)

    return check


@pytest.fixture
def pyright(tmp_path: Path) -> Callable[..., Found]:
    """Checks files with pyright's strict rules, by which nothing public may be of unknown type."""

    def check(*files: Path) -> Found:
        for each in files:
            copied(each, tmp_path)
        settings = {"typeCheckingMode": "strict", "pythonVersion": "3.10"}
        (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
        # Else it reads the packages of whichever python comes first in PATH.
        here = ("--pythonpath", sys.executable)
        out, _ = run("basedpyright", "--outputjson", *here, folder=tmp_path, PYTHONPATH=str(ROOT))
        told = json.loads(out)
        assert told["summary"]["filesAnalyzed"] == len(files)
        return by_line(
            (f"{Path(each['file']).name}:{each['range']['start']['line'] + 1}", each["message"])
            for each in told["generalDiagnostics"]
        )

    return check


def copied(file: Path, folder: Path) -> Path:
    return Path(shutil.copy(file, folder / f"{file.stem}.py"))


def by_line(found: Iterator[tuple[str, str]]) -> Found:
    lines: Found = {}
    for line, message in found:
        lines.setdefault(line, []).append(message)
    return lines


def wrong_lines() -> set[str]:
    lines = enumerate(MISTAKES.read_text().splitlines(), 1)
    return {f"{MISTAKES.stem}.py:{n}" for n, line in lines if line.endswith("# wrong")}


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_users_files_are_right(checker: str, request: pytest.FixtureRequest) -> None:
    assert request.getfixturevalue(checker)(*USERS) == {}


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_users_mistakes_are_found(checker: str, request: pytest.FixtureRequest) -> None:
    found = request.getfixturevalue(checker)(MISTAKES)
    assert found.keys() == wrong_lines()


@pytest.mark.parametrize("module", PUBLIC)
def test_the_users_files_use_every_public_name(module: str) -> None:
    text = "\n".join(each.read_text() for each in USERS)
    names = import_module(module).__all__
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []
