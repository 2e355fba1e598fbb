"""A child that a test has forked, and forgotten to end, does not go on as pytest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.forks import STATUS

TESTS = """
import os, pathlib

def test_forks():
    if (child := os.fork()) == 0:
        {child}
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == {status}

def test_comes_after_it():
    with pathlib.Path({ran!r}).open("a") as file:
        file.write("ran\\n")
"""


@pytest.mark.parametrize("child", ["raise ValueError('in the child')", "return"])
def test_a_childs_mistake_stays_in_the_child(tmp_path: Path, child: str) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "test_it.py").write_text(TESTS.format(child=child, status=STATUS, ran=str(ran)))
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.forks", "-p", "no:cacheprovider", "-s", "."],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "2 passed" in done.stdout
    assert ran.read_text() == "ran\n"
    assert ("ValueError: in the child" in done.stderr) == child.startswith("raise")
