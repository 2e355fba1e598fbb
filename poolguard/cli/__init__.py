"""The command ``poolguard``: parse what was asked, run it, say in one line what went wrong."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .. import __version__
from ..errors import PoolguardError

__all__ = ["main"]

INTERRUPTED = 130
"""What a shell reports of a command that Ctrl-C ended."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage of everything."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}. See {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    from . import check, demo, plan, status, trace

    parser = _Parser(
        prog="poolguard",
        description="A warm psycopg pool in each gunicorn worker, sized from one budget.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"poolguard {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_Parser
    )
    for command in (plan, check, status, trace, demo):
        command.add_to(commands)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:  # argparse itself would have the command's mistakes told by the parent
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        ended: int = options.run(options)
        sys.stdout.flush()
    except PoolguardError as error:
        for line in str(error).splitlines():
            print(f"poolguard: {line}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("poolguard: stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever reads has enough, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the exit
        return 0
    return ended
