"""benchmarks/README.md has the tables that the benchmarks write, each between its own marks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.__main__ import ALL, DIGESTS
from benchmarks.readme import END, README, Digest, Place, begin, write
from benchmarks.table import Row, Table
from poolguard.errors import LabError

TEXT = f"# One\n\n{begin('one')}old\n{END}between\n{begin('two')}kept\n{END}after\n"


def test_each_mark_is_that_of_a_benchmark_which_writes_a_table_and_each_has_its_marks() -> None:
    marks = re.findall(r"<!-- table:(.*) -->", README.read_text())
    assert sorted(marks) == sorted(DIGESTS)
    assert DIGESTS.keys() <= ALL.keys()


@pytest.mark.parametrize("name", DIGESTS)
def test_the_table_that_is_there_has_the_heads_and_rows_that_would_be_written(name: str) -> None:
    """Figures are what they were when it was measured; all else is as the benchmark has it."""
    digest = DIGESTS[name]
    places = {place for cells in digest.rows.values() for cell in cells for place in cell}
    tables = {
        part: Table(part, [Row(p.who, {p.figure: [1.0]}) for p in places if p.part == part])
        for part in {place.part for place in places}
    }
    assert tables.keys() <= ALL[name].PARTS.keys()
    wanted = [line.split("|")[1] for line in digest.lines(tables)[4:]]
    shown = README.read_text().partition(begin(name))[2].partition(END)[0].splitlines()
    assert shown[2].split("|")[2:-1] == [f" {head} " for head in digest.heads]
    rows = [line.split("|")[1] for line in shown[4:]]
    assert rows == [row for row in wanted if row in rows]


def test_only_what_is_between_the_marks_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(TEXT)
    write(path, "one", ["new", "lines"])
    assert path.read_text() == TEXT.replace("old\n", "new\nlines\n")


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace(begin("one"), ""),
        TEXT.replace(f"old\n{END}", ""),
        begin("one"),
    ],
)
def test_without_its_marks_nothing_is_written(tmp_path: Path, text: str) -> None:
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(LabError, match=r"^README\.md needs <!-- table:one --> and <!-- end -->"):
        write(path, "one", ["new"])
    assert path.read_text() == text


def test_a_digest_has_medians_and_dashes_and_no_row_without_a_figure() -> None:
    rows = [Row("a", {"took": [0.5, 0.1, 0.3], "failed": [2]}), Row("b", {"took": [float("inf")]})]
    cells = {who: [[Place("p", who, "took")], [Place("p", who, "failed")]] for who in "abc"}
    both = [[Place("p", "a", "took"), Place("p", "b", "took")], []]
    digest = Digest(["took, s", "failed"], {**cells, "both": both})
    said, blank, *lines = digest.lines({"p": Table("", rows)})
    assert re.fullmatch(r"\d+ cores, PostgreSQL [\d.]+; medians of the rounds:", said)
    assert blank == ""
    assert lines == [
        "|  | took, s | failed |",
        "|---|---|---|",
        "| a | 0.30 | 2 |",
        "| b | never | – |",
        "| both | 0.30 / never |  |",
    ]
