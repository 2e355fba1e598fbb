"""A test that needs neither server nor framework starts at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SLOW = {"psycopg", "psycopg_pool", "opentelemetry", "gunicorn", "gevent", "hypothesis", "trio"}
"""Packages whose import takes longer than a pure test."""
RUN = f"""
import sys, pytest
status = pytest.main(["-p", "no:cacheprovider", *sys.argv[1:]])
print("imported:", sorted({SLOW!r} & sys.modules.keys()))
sys.exit(status)
"""


def test_a_pure_test_waits_for_no_import_that_it_does_not_need() -> None:
    """What tests/conftest.py, pytest's plugins and the summary import, all tests pay for."""
    ran = subprocess.run(
        [sys.executable, "-c", RUN, "tests/util/test_escape.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1] == "imported: []"
