"""What the second try of failed tests comes to, by .ci/twice.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .scripts import ROOT, load

twice = load("twice")

# -- the verdict -------------------------------------------------------------------------------


def test_what_passes_at_the_second_try_is_flaky_and_the_run_is_good() -> None:
    verdict = twice.judge(["a", "b"], [], [])
    assert verdict == (["a", "b"], [])
    assert verdict.is_good


def test_what_fails_twice_fails_the_run() -> None:
    verdict = twice.judge(["a", "b"], ["b"], [])
    assert verdict == (["a"], ["b"])
    assert not verdict.is_good


def test_the_third_flaky_one_of_a_run_fails_it() -> None:
    assert twice.judge(["b"], [], ["a"]).is_good
    verdict = twice.judge(["c"], [], ["a", "b"])
    assert verdict == (["a", "b", "c"], [])
    assert not verdict.is_good


def test_one_that_was_flaky_before_and_fails_now_has_failed() -> None:
    assert twice.judge(["a"], ["a"], ["a"]) == ([], ["a"])


def test_the_second_try_has_the_same_pytest() -> None:
    command = ".venv/bin/pip install pytest && .venv-3.10/bin/pytest -n 3 tests/pool"
    assert twice.alone(command, "a")[0] == ".venv-3.10/bin/pytest"


# -- the whole script --------------------------------------------------------------------------

STEADY = "def test_steady(): pass\n"
FLAKY = """
from pathlib import Path
def test_flaky_{0}():
    seen = Path("seen-{0}")
    was_here = seen.exists()
    seen.touch()
    assert was_here
"""
BROKEN = "def test_broken(): assert False\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder in which the tests of another project can be run."""
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    script = folder / "pytest"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m pytest "$@"\n')
    script.chmod(0o755)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts=--disable-plugin-autoload -p xdist\n")
    (tmp_path / "flaky").touch()
    return tmp_path


def run(project: Path, tests: str, command: str = ".venv/bin/pytest") -> tuple[int, list[str]]:
    """The script's status, and the names that it has added."""
    (project / "test_it.py").write_text(tests)
    ran = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "twice.py"), "flaky", command],
        cwd=project,
        capture_output=True,
        check=False,
    )
    return ran.returncode, (project / "flaky").read_text().splitlines()


def test_each_flaky_test_is_named_and_two_are_borne(project: Path) -> None:
    tests = STEADY + FLAKY.format(1)
    assert run(project, tests) == (0, ["test_it.py::test_flaky_1"])
    tests += FLAKY.format(2)
    assert run(project, tests) == (0, ["test_it.py::test_flaky_1", "test_it.py::test_flaky_2"])
    status, names = run(project, tests + FLAKY.format(3))
    assert (status, len(names)) == (1, 3)


def test_a_broken_test_fails_and_is_not_called_flaky(project: Path) -> None:
    assert run(project, STEADY + BROKEN) == (1, [])


def test_what_a_broken_test_leaves_behind_harms_no_second_try(project: Path) -> None:
    """Each is alone in its process."""
    leaves = "import sys\ndef test_broken(): sys.left = 1; assert False\n"
    finds = "def test_victim(): assert not hasattr(sys, 'left')\n"
    assert run(project, leaves + finds) == (1, ["test_it.py::test_victim"])


def test_what_failed_in_an_earlier_command_is_not_run_again(project: Path) -> None:
    assert run(project, STEADY + BROKEN) == (1, [])
    assert run(project, STEADY) == (0, [])


@pytest.mark.parametrize("command", ["exit 3", ".venv/bin/pytest --no-such-option"])
def test_a_command_that_ran_no_tests_is_not_repeated(project: Path, command: str) -> None:
    status, names = run(project, STEADY + BROKEN, f"echo >> times; {command}")
    assert status not in (0, 1)
    assert names == []
    assert (project / "times").read_text() == "\n"
