"""Shows the comparison in a terminal: table, verdict, picture, three trees, conditions.

Colour only repeats what words and shapes already say, so that the output reads the same in a
file, under NO_COLOR, and in a README. Where the encoding has no Unicode, it is drawn in ASCII.
"""

from __future__ import annotations

from textwrap import TextWrapper, wrap

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...lab.result import Comparison
from ...util.escape import escaped
from ..text import encodable
from . import picture, trees
from .summary import caveats, rows, verdict

__all__ = ["render"]

WIDEST = 120
"""Wider lines are no easier to read."""

PLOT_HEIGHT = 9


def render(comparison: Comparison, console: Console) -> None:
    """Print the whole report, no line longer than the console is wide."""
    _Page(comparison, console).render()


class _Page:
    def __init__(self, comparison: Comparison, console: Console) -> None:
        self._comparison = comparison
        self._console = console
        self._width = min(console.width, WIDEST)
        self._unicode = not console.options.ascii_only

    def render(self) -> None:
        self._table()
        self._verdict()
        self._picture()
        self._trees()
        self._facts()

    def _table(self) -> None:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column("")
        for index, run in enumerate(self._comparison.runs):
            table.add_column(self._text(run.name, self._style(index)), justify="right")
        for row in rows(self._comparison):
            style = "dim" if row.detail else "bold" if row.label.startswith("slowest") else ""
            label = f"  {row.label}" if row.detail else row.label
            table.add_row(self._text(label), *map(self._text, row.values), style=style)
        self._console.print(table, width=self._width)

    def _verdict(self) -> None:
        self._line("")
        self._paragraph(verdict(self._comparison), "bold")
        for caveat in caveats(self._comparison):
            self._paragraph(f"Note: {caveat}", "yellow")

    def _picture(self) -> None:
        runs, phases = self._comparison.runs, self._comparison.phases
        scale = picture.Scale.over(runs, below=0.1)
        for index, run in enumerate(runs):
            heading, names, *plot, opened, created = picture.draw(
                run, phases, self._width, PLOT_HEIGHT, scale=scale, unicode=self._unicode
            )
            style = self._style(index)
            self._line("")
            self._line(heading, f"bold {style}")
            self._line(names)
            for line in plot:
                self._line(line, style)
            self._line(opened)
            self._line(created, "bold")
        self._line("")
        for line in picture.legend(phases, self._width, unicode=self._unicode):
            self._paragraph(line, "dim")

    def _trees(self) -> None:
        run = self._comparison.runs[-1]
        if not run.spans:
            self._line("")
            self._paragraph(f"Of {run.name}'s run no spans were recorded.")
            return
        for outcome, tree in trees.pick(run).items():
            self._line("")
            if tree is None:
                self._paragraph(f"{outcome}: {trees.missing(outcome, run)}", "bold")
                continue
            self._paragraph(f"{outcome}: a request that {trees.MEANING[outcome]}", "bold")
            for line in trees.draw(tree, self._width, unicode=self._unicode):
                self._line(line.text, "dim" if line.detail else "")

    def _facts(self) -> None:
        facts = self._comparison.facts
        if facts:
            self._line("")
        indent = " " * (max(map(len, facts), default=0) + 2)
        for name, value in facts.items():
            wrapper = TextWrapper(self._width, subsequent_indent=indent)
            for line in wrapper.wrap(f"{name:<{len(indent)}}{value}"):
                self._line(line)

    def _style(self, index: int) -> str:
        return "cyan" if index == len(self._comparison.runs) - 1 else "yellow"

    def _text(self, text: str, style: str = "") -> Text:
        text = escaped(text)
        if not self._unicode:
            text = encodable(text, "ascii")
        return Text(text, style)

    def _paragraph(self, text: str, style: str = "") -> None:
        # rich would keep the blank at which it breaks a line
        for line in wrap(text, self._width):
            self._line(line, style)

    def _line(self, text: str, style: str = "") -> None:
        self._console.print(self._text(text, style), no_wrap=True, overflow="crop", crop=True)
