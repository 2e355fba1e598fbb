"""The picture and the trees: nothing left out, nothing too wide, one scale for all."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from poolguard.cli.report import picture, trees
from poolguard.lab.result import Run, Sample, Span

from .sample import DAY, PHASES, Tags, comparison, run_of

# --- the picture


def drawn(run: Run, width: int = 80, height: int = 8, *, unicode: bool = True) -> list[str]:
    scale = picture.Scale.over([run])
    return picture.draw(run, DAY, width, height, scale=scale, unicode=unicode)


@pytest.mark.parametrize("width", [40, 80, 81, 120])
@pytest.mark.parametrize("unicode", [True, False])
def test_no_line_of_the_picture_is_wider_than_asked(width: int, unicode: bool) -> None:
    shown = comparison()
    scale = picture.Scale.over(shown.runs)
    for run in shown.runs:
        lines = picture.draw(run, PHASES, width, 9, scale=scale, unicode=unicode)
        assert max(map(len, lines)) <= width
        assert len(lines) == 9 + 6
        assert unicode or all(line.isascii() for line in lines)


def test_a_small_picture() -> None:
    run = run_of(0.1, 0.1, 0.1, 1.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, opened=(-1.0, 0.2, 3.1, 3.2))
    lines = picture.draw(run, DAY, 18, 4, scale=picture.Scale(0.01, 1.0))
    assert lines[1:] == [
        "        the day",
        "   1 s ┤   █",
        "300 ms ┤   █",
        "100 ms ┤██████████",
        " 10 ms ┤██████████",
        "       └┴────────┴",
        "        0 s",
        " opened 1  2",
        "created",
    ]


def test_the_median_and_the_slowest_of_a_column_differ() -> None:
    samples = [Sample(0.1, latency, 200, "day") for latency in (0.1, 0.1, 1.0)]
    run = replace(run_of(), samples=tuple(samples))
    plot = picture.draw(run, DAY, 18, 4, scale=picture.Scale(0.01, 1.0))[2:6]
    assert [line[8:9] for line in plot] == ["┃", "┃", "█", "█"]


def test_a_stem_ends_to_half_a_row() -> None:
    samples = [Sample(0.1, latency, 200, "day") for latency in (0.01, 0.01, 0.2)]
    run = replace(run_of(), samples=tuple(samples))
    plot = picture.draw(run, DAY, 18, 4, scale=picture.Scale(0.01, 1.0))[2:6]
    assert [line[8:9] for line in plot] == ["", "╻", "┃", "▁"]


def test_every_opened_connection_is_marked() -> None:
    for run in comparison().runs:
        heading, *_, opened, created = drawn_in_story(run)
        assert f"{len(run.opened)} connections opened" in heading
        before = sum(at < 0 for at in run.opened)
        assert f"{before} before the traffic" in heading
        assert counted(opened, "opened") == len(run.opened) - before
        assert counted(created, "created") == sum(s.created for s in run.samples)


def drawn_in_story(run: Run) -> list[str]:
    # so wide that no column has more than nine
    return picture.draw(run, PHASES, 4000, 8, scale=picture.Scale(0.001, 10))


def counted(line: str, label: str) -> int:
    assert line.lstrip().startswith(label)
    assert "+" not in line
    return sum(int(digit) for digit in re.findall(r"\d", line))


def test_more_connections_than_a_digit_can_tell_are_marked_too() -> None:
    lines = drawn(run_of(0.1, opened=(1.0,) * 12))
    assert lines[-2].split() == ["opened", "+"]


def test_the_panels_share_one_scale() -> None:
    ordinary, guarded = comparison().runs
    scale = picture.Scale.over((ordinary, guarded))
    panels = [picture.draw(r, PHASES, 80, 9, scale=scale) for r in (ordinary, guarded)]
    labels = [[line[:8] for line in panel[2:11]] for panel in panels]
    assert labels[0] == labels[1]
    assert sum(label.endswith("s ┤") for label in labels[0]) >= 4
    for sample in ordinary.samples + guarded.samples:
        assert scale.low <= sample.latency <= scale.high


def test_a_scale_is_logarithmic_and_clamps() -> None:
    scale = picture.Scale(0.01, 1.0)
    places = [scale.place(latency) for latency in (0.001, 0.01, 0.1, 1.0, 5.0)]
    assert places == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0])
    assert scale.ticks() == [0.01, 0.03, 0.1, 0.3, 1.0]
    assert picture.Scale(0.1, 1.0).ticks() == [0.1, 0.2, 0.5, 1.0]


@pytest.mark.parametrize("latencies", [(), (0.0,), (1e-9, 1e5)])
def test_odd_latencies_have_a_scale_too(latencies: tuple[float, ...]) -> None:
    assert len(drawn(run_of(*latencies))) == 8 + 6


def test_a_phase_too_narrow_for_its_name_goes_without() -> None:
    phases = (*DAY, ("ramp", "ramp", 10.0, 10.3), ("burst", "big burst", 10.3, 12.0))
    names = picture.draw(run_of(0.1), phases, 80, 8, scale=picture.Scale(0.01, 1.0))[1]
    assert re.sub(" +", " ", names) == " the day ┊┊big burst"


# --- the trees


def request(number: int, outcome: str, wait: float, start: float = 0.0) -> Span:
    tags: Tags = {"poolguard.request.outcome": outcome, "poolguard.request.wait_time": wait}
    return Span("GET", "SERVER", f"t{number}", "root", None, start, start + wait + 0.01, tags)


def test_the_request_of_the_median_wait_is_picked() -> None:
    spans = tuple(request(n, "waited", wait) for n, wait in enumerate([0.9, 0.01, 0.02, 0.05]))
    picked = trees.pick(run_of(spans=spans))
    assert list(picked) == ["acquired", "waited", "created"]
    assert picked["waited"] is not None
    assert picked["waited"].span is spans[2]
    assert picked["acquired"] is None
    assert picked["created"] is None


def test_picking_depends_on_no_order() -> None:
    run = comparison().runs[1]
    assert trees.pick(run) == trees.pick(replace(run, spans=run.spans[::-1]))


def test_a_tree_holds_the_spans_of_its_request_only() -> None:
    tree = trees.pick(comparison().runs[1])["created"]
    assert tree is not None
    assert [(depth, node.span.name) for depth, node in tree.walk()] == [
        (0, "GET /orders"),
        (1, "pool.acquire"),
        (2, "pool.connect"),
        (1, "SELECT orders"),
    ]


def test_spans_that_are_their_own_ancestors_end() -> None:
    root = request(1, "waited", 0.1)
    loop = [
        Span("a", "INTERNAL", "t1", "a", "root", 0.0, 0.1),
        Span("b", "INTERNAL", "t1", "b", "a", 0.0, 0.1),
        Span("a again", "INTERNAL", "t1", "a", "b", 0.0, 0.1),
    ]
    tree = trees.pick(run_of(spans=(root, *loop)))["waited"]
    assert tree is not None
    assert [node.span.name for _, node in tree.walk()] == ["GET", "a", "b", "a again"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_drawn_tree_tells_names_times_and_attributes(width: int) -> None:
    tree = trees.pick(comparison().runs[1])["created"]
    assert tree is not None
    lines = trees.draw(tree, width)
    assert max(len(line.text) for line in lines) <= width
    spans = [line.text for line in lines if not line.detail]
    assert [line.split("█")[0].strip() for line in spans] == [
        "GET /orders",
        "├─ pool.acquire",
        "│  └─ pool.connect",
        "└─ SELECT orders",
    ]
    assert [line.split()[-2:] for line in spans] == [
        ["165", "ms"],
        ["159", "ms"],
        ["158", "ms"],
        ["4.1", "ms"],
    ]
    details = " ".join(line.text.strip("│ ") for line in lines if line.detail)
    assert "poolguard.request.outcome created · .acquire_count 1 · .created_count 1" in details
    assert "poolguard.connection.age 0.4 ms" in details
    assert "server.address 127.0.0.1 · .port 5432 · db.namespace demo" in details


def test_a_connect_that_began_before_its_request_stays_in_the_window() -> None:
    root = request(1, "created", 0.1, start=1.0)
    connect = Span("pool.connect", "CLIENT", "t1", "c", "root", 0.95, 1.05)
    tree = trees.pick(run_of(spans=(root, connect)))["created"]
    assert tree is not None
    assert tree.window() == pytest.approx((0.95, 0.16))
    first, second = (line.text for line in trees.draw(tree, 80) if not line.detail)
    assert second.index("█") < first.index("█")
