"""The report: right figures, an honest verdict, and the same of it in terminal, page and JSON."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType

import pytest
from rich.console import Console

from poolguard.cli.report import html, machine, summary, terminal, write
from poolguard.errors import LabError
from poolguard.lab.result import Comparison, Run, Sample, Span
from tests.support import obeyed

from .sample import DAY, PHASES, Tags, against, comparison, run_of

HOSTILE = "<script>alert('x')</script>\"&\x1b[31m\x9b\u202e\n"


def printed(shown: Comparison, width: int = 80, encoding: str = "utf-8") -> str:
    """What ends up in a file: no terminal, no colour."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    terminal.render(shown, Console(file=file, width=width))
    file.flush()
    return raw.getvalue().decode(encoding)


# --- figures


@pytest.mark.parametrize(
    ("latencies", "share", "expected"),
    [
        ([0.7], 0.5, 0.7),
        ([1, 2], 0.5, 1),
        ([1, 2, 3], 0.5, 2),
        ([1, 2, 3, 4], 0.5, 2),
        ([1, 2, 3, 4], 0.99, 4),
        (range(1, 101), 0.99, 99),
        (range(1, 102), 0.99, 100),
        ([1, 2, 3], 0.0, 1),
        ([1, 2, 3], 1.0, 3),
        ([], 0.5, None),
    ],
)
def test_a_percentile_is_the_latency_of_a_real_request(
    latencies: list[float], share: float, expected: float | None
) -> None:
    assert summary.percentile(latencies, share) == expected


def test_the_figures_of_a_run() -> None:
    run = Run(
        name="pool",
        samples=(
            Sample(0.0, 0.5, 200, "cold", created=True),
            Sample(1.0, 0.1, 200, "cold", created=True),
            Sample(2.0, 0.9, 503, "burst", created=True),
            Sample(3.0, 0.2, 0, "burst"),
        ),
        opened=(-0.5, -0.1, 0.2),
        connections=((0.0, 3), (1.0, 7), (2.0, 5)),
        budget=8,
        lag=0.003,
    )
    assert summary.summarise(run) == summary.Summary(
        name="pool",
        requests=4,
        failed=2,
        p50=0.2,
        p99=0.9,
        maximum=0.9,
        created_during=3,
        created_outside_burst=2,
        opened=3,
        opened_before=2,
        peak=7,
        budget=8,
        lag=0.003,
        slowest_by_phase={"cold": 0.5, "burst": 0.9},
    )


def test_a_run_without_requests_has_no_latency() -> None:
    figures = summary.summarise(run_of())
    assert (figures.requests, figures.p50, figures.p99, figures.maximum) == (0, None, None, None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.0, "0 ms"),
        (0.00002, "20 µs"),
        (0.00009996, "0.1 ms"),
        (0.0061, "6.1 ms"),
        (0.00996, "10 ms"),
        (0.251, "251 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
        (1.62, "1.62 s"),
        (9.996, "10.0 s"),
        (1234.5, "1,234.5 s"),
    ],
)
def test_durations_are_told_as_people_do(seconds: float | None, text: str) -> None:
    assert summary.clock(seconds) == text


# --- the verdict


def test_the_verdict_when_poolguard_is_faster() -> None:
    shown = against(run_of(0.1, 1.6064), run_of(0.1, 0.251))
    assert summary.factor(shown) == pytest.approx(6.4)
    assert summary.verdict(shown) == (
        "poolguard's slowest request took 251 ms, the ordinary pool's 1.61 s: 6.4 times as long."
    )


def test_the_verdict_when_poolguard_is_slower() -> None:
    shown = against(run_of(0.251), run_of(1.6064))
    assert summary.verdict(shown) == (
        "poolguard's slowest request took 1.61 s, the ordinary pool's 251 ms: "
        "here poolguard was the slower one, 6.4 times as long."
    )


@pytest.mark.parametrize("guarded", [0.96, 1.0, 1.04])
def test_a_small_difference_is_none(guarded: float) -> None:
    verdict = summary.verdict(against(run_of(1.0), run_of(guarded)))
    assert verdict.endswith(": about the same.")


def test_failing_more_is_never_better() -> None:
    verdict = summary.verdict(against(run_of(1.0, 1.0), run_of(0.001, 0.1, failed=1)))
    assert verdict.startswith(
        "poolguard failed 1 of 2 requests, the ordinary pool none: that outweighs any time."
    )
    assert "times as long" not in verdict


def test_a_failed_request_counts_with_its_latency() -> None:
    assert summary.summarise(run_of(5.0, 0.1, failed=1)).maximum == 5.0


def test_no_verdict_without_requests() -> None:
    shown = against(run_of(), run_of(0.1))
    assert summary.factor(shown) is None
    assert summary.verdict(shown).startswith("There is no verdict")


def test_what_spoils_a_measurement_is_said() -> None:
    shown = against(
        run_of(1.0, failed=1, name="a", connections=((0.0, 11),)), run_of(1.0, name="b", lag=0.5)
    )
    assert summary.caveats(shown) == [
        "a: 1 of 1 requests failed.",
        "a: 11 server connections at once, over its budget of 10.",
        "b: the load generator itself was up to 500 ms late; smaller differences mean nothing.",
    ]
    assert "Note: a: 1 of 1 requests failed." in printed(shown)
    assert summary.caveats(comparison()) == []


# --- the terminal


def test_a_missing_outcome_is_said_plainly() -> None:
    ordinary, guarded = comparison().runs
    spans = tuple(span for span in guarded.spans if not span.trace_id.startswith("created"))
    shown = Comparison(PHASES, (ordinary, replace(guarded, spans=spans)), {})
    said = "o recorded request of poolguard's run waited while a connection was being created."
    assert f"created: n{said}" in " ".join(printed(shown).split())
    assert f"N{said}" in parsed(html.page(shown)).text


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_no_line_is_wider_than_the_terminal(width: int, encoding: str) -> None:
    lines = printed(comparison(), width, encoding).splitlines()
    assert max(map(len, lines)) <= min(width, 120)


def test_all_figures_are_there_without_colour() -> None:
    shown = comparison()
    text = printed(shown)
    assert "\x1b" not in text
    for row in summary.rows(shown):
        assert re.search(
            rf"^ *{re.escape(row.label)} +{' +'.join(map(re.escape, row.values))}$", text, re.M
        )
    flat = " ".join(text.split())
    assert summary.verdict(shown) in flat
    for name, value in shown.facts.items():
        assert f"{name} {value}" in flat


def test_colour_changes_no_word() -> None:
    raw = io.StringIO()
    console = Console(
        file=raw, width=80, force_terminal=True, color_system="truecolor", _environ={}
    )
    terminal.render(comparison(), console)
    assert "\x1b[" in raw.getvalue()
    assert re.sub(r"\x1b\[[\d;]*m", "", raw.getvalue()) == printed(comparison())


def test_hostile_text_reaches_no_terminal() -> None:
    text = printed(hostile())
    assert obeyed(text) == []
    assert "[bold]" in text  # what looks like markup is text


# --- the page


class _Page(HTMLParser):
    """Every tag with its attributes, the text, and whether all tags were closed."""

    VOID = frozenset({"meta", "circle", "line", "rect", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID or (tag == "path" and self.get_starttag_text()[-2:] != "/>"):  # type: ignore[index]
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(page: str) -> _Page:
    parser = _Page()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def hostile() -> Comparison:
    """Whatever a name or an attribute may hold, everywhere."""
    tags: Tags = {"poolguard.request.outcome": "waited", "db.namespace": HOSTILE}
    span = Span(HOSTILE, "CLIENT", "t", "s", None, 0.0, 0.2, tags)
    run = run_of(0.1, 0.2, name=HOSTILE, failed=1, spans=(span,), lag=1.0)
    phases = (("day", HOSTILE, 0.0, 10.0),)
    return Comparison(phases, (run, run_of(0.1, name=HOSTILE, spans=(span,))), {
        HOSTILE: "[bold]" + HOSTILE
    })  # fmt: skip


def test_the_page_loads_nothing_from_anywhere() -> None:
    page = html.page(comparison())
    found = parsed(page)
    assert {"script", "link", "img", "iframe", "object", "base", "a"}.isdisjoint(
        tag for tag, _ in found.tags
    )
    for _, attributes in found.tags:
        assert {"src", "href", "xlink:href", "srcset"}.isdisjoint(attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"https?:|url\(|@import", page)


def test_the_page_says_what_the_terminal_says() -> None:
    shown = comparison()
    page = html.page(shown)
    text = parsed(page).text.replace("\xa0", " ")
    assert summary.verdict(shown) in text
    for row in summary.rows(shown):
        assert row.label + "".join(row.values) in text
    for name, value in shown.facts.items():
        assert name + value in text


def test_every_request_and_connection_is_on_the_page() -> None:
    shown = comparison()
    page = html.page(shown)
    samples = [sample for run in shown.runs for sample in run.samples]
    opened = [at for run in shown.runs for at in run.opened if at >= 0]
    created = sum(sample.created for sample in samples)
    assert page.count("<circle") == len(samples) - created
    assert page.count("created while it waited</title>") == created
    assert page.count("<title>connection opened at") == len(opened)


def test_the_page_can_be_heard() -> None:
    found = parsed(html.page(comparison()))
    charts = [attributes for tag, attributes in found.tags if attributes.get("role") == "img"]
    assert len(charts) == 4
    assert all(attributes["aria-label"] for attributes in charts)
    assert [tag for tag, _ in found.tags].count("desc") == 4
    heads = [attributes for tag, attributes in found.tags if tag == "th"]
    assert {attributes.get("scope") for attributes in heads} == {"col", "row"}
    assert ("html", {"lang": "en"}) in found.tags


def test_hostile_text_is_escaped() -> None:
    page = html.page(hostile())
    assert "<script" not in page
    assert obeyed(page) == []
    found = parsed(page)
    assert "script" not in {tag for tag, _ in found.tags}
    assert "<script>alert('x')</script>\"&" in found.text


@pytest.mark.parametrize("runs", [(run_of(), run_of()), (run_of(0.0), run_of(0.0))])
def test_an_empty_story_is_still_a_report(runs: tuple[Run, Run]) -> None:
    for phases in ((), DAY):
        shown = Comparison(phases, runs, {})
        parsed(html.page(shown))
        assert "There is no verdict" in printed(shown)
        json.dumps(machine.to_json(shown), allow_nan=False)


# --- for machines, and into files


def test_json_comes_back_as_it_went() -> None:
    shown = comparison()
    data = machine.to_json(shown)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert list(data) == [
        "version", "verdict", "factor", "caveats", "summary", "facts", "phases", "runs",
    ]  # fmt: skip
    assert data["version"] == 1
    assert [run["name"] for run in data["runs"]] == ["ordinary pool", "poolguard"]
    for run, told in zip(shown.runs, data["runs"], strict=True):
        assert tuple(Sample(**sample) for sample in told["samples"]) == run.samples
        assert tuple(Span(**span) for span in told["spans"]) == run.spans
        assert told["opened"] == list(run.opened)
        assert told["connections"] == [list(pair) for pair in run.connections]


def test_json_takes_read_only_attributes() -> None:
    span = Span("a", "SERVER", "t", "s", None, 0.0, 1.0, MappingProxyType({"a": 1}))
    data = machine.to_json(against(run_of(0.1), run_of(0.1, spans=(span,))))
    assert data["runs"][1]["spans"][0]["attributes"] == {"a": 1}
    json.dumps(data)


def test_a_report_is_written_as_utf8(tmp_path: Path) -> None:
    write(tmp_path / "report.txt", "▁█\udcff")
    assert (tmp_path / "report.txt").read_bytes() == "▁█?".encode()


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("missing/report.html", "the folder .*missing does not exist; create it"),
        ("", "it is a folder; name a file in it"),
        ("file/report.html", "a part of the path is a file"),
    ],
)
def test_a_report_that_cannot_be_written(tmp_path: Path, path: str, remedy: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match=remedy) as caught:
        write(tmp_path / path, "text")
    assert str(tmp_path / path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_report_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    # not by chmod: to root everything is permitted
    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(LabError, match="permission denied; choose a path that you may write to"):
        write(tmp_path / "report.html", "text")
