"""Where the output leads nowhere: it is closed, full, or nobody reads it any more."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PLAN = ("plan", "--capacity", "100", "--workers", "4", "--threads", "8")
FULL = "poolguard: cannot write to standard output: No space left on device\n"
needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")


def through(shell: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as ``"$@"`` in *shell*; what it says is that of its standard error."""
    return subprocess.run(
        ["sh", "-c", shell, "sh", sys.executable, "-m", "poolguard", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "POOLGUARD_RUNTIME_DIR": "/nowhere"},
    )


@needs_full
@pytest.mark.parametrize("arguments", [PLAN, ("status",), ("status", "--json")])
def test_a_full_disk_is_one_line(arguments: tuple[str, ...]) -> None:
    done = through('"$@" >/dev/full', *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", FULL)


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_what_is_closed_takes_everything(closed: str) -> None:
    """The exit status is the command's own, also where it is all that is asked for."""
    for arguments, status in ((PLAN, 0), (("status",), 3)):
        done = through(f'"$@" {closed}', *arguments)
        assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


def test_a_reader_that_has_enough_is_no_mistake() -> None:
    done = through('{ "$@"; echo "ended with $?" >&2; } | true', *PLAN)
    assert done.stderr == "ended with 0\n"
