"""The command ``poolguard``: it parses its arguments, runs a command, and reports what fails."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from .. import __version__
from ..errors import PoolguardError
from ..util.escape import escaped

__all__ = ["main"]

INTERRUPTED = 130
"""The exit status that a shell reports of a command that Ctrl-C has ended."""

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}
"""The errors of writing to standard output. Reading and connecting fail with others."""


class _Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong, without the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {escaped(message)}. See {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    _open_what_is_closed()
    try:
        ended = _run(arguments)
        sys.stdout.flush()
    except PoolguardError as error:
        ended = _fail(1, *str(error).split("\n"))
    except KeyboardInterrupt:
        ended = _fail(INTERRUPTED, "stopped")
    except BrokenPipeError:  # the reader, such as head, has enough
        ended = 0
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        ended = _fail(1, f"cannot write to standard output: {error.strerror or error}")
    _settle()
    return ended


def _run(arguments: Sequence[str] | None) -> int:
    from . import check, demo, history, plan, status, trace

    parser = _Parser(
        prog="poolguard",
        description="A warm psycopg pool in each gunicorn worker, sized from one budget.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"poolguard {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_Parser
    )
    for command in (plan, check, status, history, trace, demo):
        command.add_to(commands)
    try:
        options, unknown = parser.parse_known_args(arguments)
        if unknown:  # argparse itself would report them as the parent parser's
            options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    except SystemExit as end:  # it has shown its help, or said what is wrong
        sys.stdout.flush()
        return int(end.code or 0)
    ended: int = options.run(options)
    return ended


def _fail(status: int, *lines: str) -> int:
    with suppress(OSError):  # standard error may be full, or closed at its other end
        for line in lines:
            print(f"poolguard: {escaped(line)}", file=sys.stderr)
    return status


def _open_what_is_closed() -> None:
    """Lead standard streams that are closed to /dev/null.

    Otherwise the next file or socket that is opened would take the number of one of them. Python
    also has None in place of their objects.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(
                number, True
            )  # open() has returned this very number, and then dup2() does not do it
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _settle() -> None:
    """Make Python's own flush at the exit succeed: what failed here has been reported already."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
