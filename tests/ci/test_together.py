"""Files whose tests stay in one process, with pytest-xdist."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import together

ROOT = Path(__file__).parents[2]
TEST = """
import os, pytest

@pytest.mark.parametrize("n", range(6))
def test_something(n: int) -> None:
    with open("pids", "a") as file:
        file.write(f"{os.getpid()}\\n")
"""


def test_all_of_these_files_exist() -> None:
    assert {name for name in together.FILES if (ROOT / name).is_file()} == together.FILES


@pytest.mark.parametrize("dist", ["loadgroup", "load"])
def test_the_tests_of_such_a_file_are_run_in_one_process(dist: str, tmp_path: Path) -> None:
    name = sorted(together.FILES)[0]
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(TEST)
    options = ["-p", "xdist", "-p", "tests.together", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, "-n", "2", "--dist", dist, name]
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = " + str(ROOT))
    environ = {"PATH": "", "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ran = subprocess.run(
        command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 6
    assert len({*pids}) == (1 if dist == "loadgroup" else 2)
