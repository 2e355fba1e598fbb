"""Draws a week: what was asked for, what was kept, and what was created while a request waited."""

from __future__ import annotations

import argparse
from pathlib import Path

from .picture import picture
from .traffic import TRAFFICS, Scale


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description=__doc__)
    parser.add_argument("traffic", nargs="?", default="bell", choices=TRAFFICS)
    parser.add_argument("--svg", type=Path, metavar="FILE", default=Path("week.svg"))
    options = parser.parse_args()
    options.svg.write_text(picture(options.traffic, Scale()), encoding="utf-8")


main()
