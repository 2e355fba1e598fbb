"""Tracing that is disabled, absent or not sampled: nothing is recorded, and nothing goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"

Told = dict[str, dict[str, int]]


def told(dsn: str, *args: str, **environ: str) -> Told:
    program = [sys.executable, "-W", "error", "-m", "tests.telemetry.instrumented.unsampled"]
    ran = subprocess.run(
        [*program, dsn, *args],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=os.environ | environ,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    found: Told = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize(
    ("args", "environ"),
    [
        (["sdk"], {"OTEL_SDK_DISABLED": "true"}),
        (["sdk", f"{TRACE}-01"], {"OTEL_SDK_DISABLED": "true"}),
        (["noop", f"{TRACE}-01"], {}),
        (["none", f"{TRACE}-01"], {}),
        (["sdk"], {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}),
        (["sdk", f"{TRACE}-01"], {"OTEL_TRACES_SAMPLER": "always_off"}),
        (["sdk", f"{TRACE}-00"], {"OTEL_TRACES_SAMPLER": "parentbased_always_on"}),
    ],
    ids=[
        "disabled",
        "disabled, in a trace",
        "the API's own provider, in a trace",
        "no provider, in a trace",
        "a ratio of 0",
        "always off, in a trace",
        "in a trace that is not sampled",
    ],
)
def test_nothing_is_recorded(args: list[str], environ: dict[str, str], dsn: str) -> None:
    found = told(dsn, *args, **environ)
    assert len(found) > 20
    assert {name: spans for name, spans in found.items() if spans} == {}


def test_no_span_of_ours_stands_beside_one_that_is_not_sampled(dsn: str) -> None:
    """Only a request that nobody has instrumented has one."""
    found = told(dsn, "not theirs")
    alone = {name: spans for name, spans in found.items() if spans}
    assert list(alone) == [
        "asgi, ours alone",
        "asgi, ours alone, twice",
        "wsgi, ours alone",
        "wsgi, ours alone, twice",
        "flask, not_instrumented /page",
        "flask, not_instrumented /stream",
    ]


@pytest.mark.parametrize("args", [["sdk"], ["sdk", f"{TRACE}-01"]], ids=["alone", "in a trace"])
def test_what_is_sampled_is_recorded(args: list[str], dsn: str) -> None:
    """The same program, so that the silence above means something."""
    found: Any = told(dsn, *args)
    for name, spans in found.items():
        assert spans["pool.acquire"] >= 2, name
        assert spans["tagged"] == 1, name
