"""The command line, run in this process, in an environment that says nothing of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from poolguard.cli import main

WITHOUT = """
import sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None  # importing it fails
from poolguard.cli import main
sys.exit(main(sys.argv[2:]))
"""


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``poolguard`` with these arguments; nothing of the outer environment is seen."""
    for name in list(os.environ):
        if name.startswith(("POOLGUARD_", "PG")) or name in ("DATABASE_URL", "WEB_CONCURRENCY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> Ran:
        try:
            status = main(arguments)
        except SystemExit as end:  # argparse
            status = int(end.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Ran(status, out, err)

    return run


def elsewhere(missing: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own, where these modules cannot be imported."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("POOLGUARD_", "PG"))}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, missing, *arguments],
        capture_output=True,
        check=False,
        env={**inherited, **environ},
    )
