"""What is written: the same figures as JSON and as Markdown, pictures that are well formed."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from benchmarks import output
from benchmarks.output.markdown import table
from benchmarks.output.pictures import pictures
from benchmarks.table import Row, Table
from tests.contest.sample import STORY, make_run

RUNS = [
    make_run([(1.0, 0.1), (12.0, 0.4)], name="poolguard", opened=[-1.0, 12.0]),
    make_run([(1.0, 0.2), (12.0, 0.9)], name="a <b>", failed=[12.0]),
]


def test_the_folder_has_figures_tables_pictures_and_how_they_came(tmp_path: Path) -> None:
    rows = [Row("poolguard", {"slowest, s": [0.2, 0.4], "failed": [0]}, {"failed": 0.0})]
    drawn = pictures("story-day", STORY, RUNS, "poolguard")
    story = {"parts": {"day": Table("day: a title", rows, ["a note"]).as_json()}, "pictures": drawn}
    folder = tmp_path / "new" / "results"
    files = output.write(folder, ["python -m benchmarks story"], {"story": story, "ledger": None})
    assert sorted(files) == sorted(folder.iterdir())
    data = json.loads((folder / "results.json").read_text())
    assert data["commands"] == ["python -m benchmarks story"]
    assert {"Python", "PostgreSQL", "cores", "psycopg"} <= data["environment"].keys()
    assert data["measured"] == {"story": {"parts": story["parts"]}}
    page = (folder / "results.md").read_text()
    assert "\npython -m benchmarks story\n" in page
    assert "| poolguard | 0.30 (0.20–0.40) | 0 | failed 0 | met |" in page
    assert "- a note" in page
    for name in drawn:
        assert f"]({name}.svg)" in page
        assert (folder / f"{name}.svg").exists()


def test_a_table_shows_what_never_came_and_what_was_missed() -> None:
    rows = [
        Row("a", {"took": [float("inf")], "only a": [2.5]}, {"took": 1.0}),
        Row("b", {"took": [0.5]}),
    ]
    part = json.loads(json.dumps(Table("t", rows).as_json()))
    assert list(table(part)) == [
        "**t**",
        "",
        "|  | took | only a | goal |  |",
        "|---|---:|---:|---|---|",
        "| a | never | 2.50 | took ≤ 1 | MISSED (took never) |",
        "| b | 0.50 |  |  |  |",
    ]


def test_pictures_are_well_formed_and_have_a_chart_for_each_run() -> None:
    drawn = pictures("story-day", STORY, RUNS, "poolguard")
    assert list(drawn) == [
        "story-day-latency",
        "story-day-percentiles",
        "story-day-connections",
    ]
    headings = {name: _headings(text) for name, text in drawn.items()}
    assert headings["story-day-latency"] == [
        "poolguard: slowest 400 ms",
        "a <b>: slowest 900 ms, 1 failed",
    ]
    assert headings["story-day-percentiles"] == headings["story-day-connections"] == ["a <b>"]


def test_colours_of_the_page_reach_the_pictures() -> None:
    text = pictures("story-day", STORY, RUNS, "poolguard")["story-day-percentiles"]
    for word in ("--guarded:", ".line.guarded {", ".label {", ".budget {"):
        assert word in text


def _headings(text: str) -> list[str | None]:
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    found = root.iter("{http://www.w3.org/2000/svg}text")
    return [element.text for element in found if element.get("class") == "heading"]
