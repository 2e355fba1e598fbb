"""``poolguard demo --quick`` from end to end, into each of its outputs, and what they must say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.backend import Backend, tracing_backend

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    with tracing_backend() as taken:
        yield taken


@dataclass(frozen=True)
class Told:
    """What one run of the demo has shown, written and sent."""

    text: str
    page: str
    data: dict[str, Any]
    backend: Backend


@pytest.fixture(scope="module")
def told(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """One run for all tests here: it takes half a minute."""
    folder = tmp_path_factory.mktemp("demo")
    page, data = folder / "demo.html", folder / "demo.json"
    outputs = ["--html", str(page), "--json", str(data), "--otlp", backend.url]
    done = subprocess.run(
        [sys.executable, "-m", "poolguard", "demo", "--quick", *outputs],
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return Told(done.stdout, page.read_text(), json.loads(data.read_text()), backend)


def in_flight(samples: list[dict[str, Any]], sample: dict[str, Any]) -> int:
    """How many requests there were at most while *sample* was one of them."""
    spans = [(float(s["at"]), float(s["at"] + s["latency"])) for s in samples]
    began, ended = float(sample["at"]), float(sample["at"] + sample["latency"])
    moments = [began, *(at for at, _ in spans if began < at < ended)]
    return max(sum(at <= moment < end for at, end in spans) for moment in moments)


def test_poolguard_creates_nothing_outside_the_burst(told: Told) -> None:
    """And its slowest request takes at most a third of the ordinary pool's, over the same load.

    A machine that stands still for a moment makes a burst of its own: a connection created then
    was needed if there were more requests than the floor has connections.
    """
    ordinary, guarded = told.data["summary"]
    assert (ordinary["name"], guarded["name"]) == ("psycopg_pool", "poolguard")
    assert ordinary["requests"] == guarded["requests"] > 800
    assert ordinary["failed"] == guarded["failed"] == 0
    assert ordinary["created_outside_burst"] > 0
    samples = told.data["runs"][1]["samples"]
    created = [s for s in samples if s["created"] and s["phase"] != "burst"]
    assert [s for s in created if in_flight(samples, s) <= guarded["opened_before"]] == []
    assert guarded["opened_before"] > 50
    assert guarded["created_during"] > 0
    assert guarded["maximum"] <= ordinary["maximum"] / 3
    for figures in told.data["summary"]:
        assert figures["peak"] <= figures["budget"]


def test_the_spans_say_what_the_requests_saw(told: Told) -> None:
    """As many requests are tagged `created` as answered that theirs was; all three kinds occur."""
    _, guarded = told.data["runs"]
    outcomes = [span["attributes"].get("poolguard.request.outcome") for span in guarded["spans"]]
    created = sum(sample["created"] for sample in guarded["samples"])
    assert outcomes.count("created") == created > 0
    assert outcomes.count("waited") > 0
    served = [outcome for outcome in outcomes if outcome is not None]
    assert len(served) == len(guarded["samples"])
    assert set(served) == {"acquired", "waited", "created"}
    connects = [span for span in guarded["spans"] if span["name"] == "pool.connect"]
    assert len(connects) == created


def test_the_backend_was_sent_the_same_spans(told: Told) -> None:
    assert told.backend.services == {"poolguard-demo"}
    _, guarded = told.data["runs"]
    assert told.backend.span_ids == {span["span_id"] for span in guarded["spans"]}


def test_terminal_and_page_say_it_in_the_same_words(told: Told) -> None:
    """Table, picture, and three requests as trees; where it was written and sent to."""
    flat = " ".join(told.text.split())
    assert told.data["verdict"] in flat
    assert "of these outside the burst" in flat
    for outcome in ("acquired", "waited", "created"):
        assert f"{outcome}: a request that" in flat
    assert "└─ pool.connect" in told.text
    assert f"spans sent to: {told.backend.url}" in told.text
    assert told.page.startswith("<!doctype html>")
    assert "connecting" in told.data["facts"]
