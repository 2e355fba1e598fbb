"""Spans read from JSON: whole ones as they were, and nothing malformed raises anything else."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolguard.telemetry.recorded import Span, Unreadable, spans_of

OTLP: dict[str, Any] = {
    "resourceSpans": [
        {
            "resource": {
                "attributes": [
                    {"key": "host.name", "value": {"stringValue": "a"}},
                    {"key": "service.name", "value": {"stringValue": "shop"}},
                ]
            },
            "scopeSpans": [
                {
                    "spans": [
                        {
                            "traceId": "0AF7651916CD43DD8448EB211C80319C",
                            "spanId": "b7ad6b7169203331",
                            "parentSpanId": "0000000000000000",
                            "name": "GET",
                            "kind": 2,
                            "startTimeUnixNano": "1790000000250000000",
                            "endTimeUnixNano": 1790000000750000000,
                            "attributes": [
                                {"key": "n", "value": {"intValue": "7"}},
                                {"key": "m", "value": {"intValue": 8}},
                                {"key": "d", "value": {"doubleValue": 0.5}},
                                {"key": "nan", "value": {"doubleValue": "NaN"}},
                                {"key": "b", "value": {"boolValue": True}},
                                {"key": "list", "value": {"arrayValue": {"values": []}}},
                                {"key": "none", "value": {}},
                            ],
                            "status": {"code": 2, "message": "not kept"},
                        }
                    ]
                }
            ],
        }
    ]
}
WHOLE = Span(
    "GET",
    "SERVER",
    "0af7651916cd43dd8448eb211c80319c",
    "b7ad6b7169203331",
    None,
    1790000000.25,
    1790000000.75,
    {
        "service.name": "shop",
        "n": 7,
        "m": 8,
        "d": 0.5,
        "b": True,
        "otel.status_code": "ERROR",
    },
)
CONSOLE: dict[str, Any] = {
    "name": "GET",
    "context": {
        "trace_id": "0x0af7651916cd43dd8448eb211c80319c",
        "span_id": "0xb7ad6b7169203331",
        "trace_state": "[]",
    },
    "kind": "SpanKind.SERVER",
    "parent_id": None,
    "start_time": "2026-09-21T14:13:20.250000Z",
    "end_time": "2026-09-21T14:13:20.750000Z",
    "status": {"status_code": "ERROR", "description": "not kept"},
    "attributes": {"n": 7, "m": 8, "d": 0.5, "nan": float("nan"), "b": True, "list": []},
    "resource": {"attributes": {"host.name": "a", "service.name": "shop"}},
}


@pytest.mark.parametrize("value", [OTLP, CONSOLE])
def test_a_span_is_the_same_in_both_encodings(value: object) -> None:
    assert list(spans_of(value)) == [WHOLE]


def test_kinds_and_statuses_by_name() -> None:
    """As protobuf's own JSON has them."""
    value = copy.deepcopy(OTLP)
    [span] = value["resourceSpans"][0]["scopeSpans"][0]["spans"]
    span["kind"] = "SPAN_KIND_SERVER"
    span["status"] = {"code": "STATUS_CODE_ERROR"}
    assert list(spans_of(value)) == [WHOLE]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in it."""
    found = [path]
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            found += places(inner, (*path, key))
    return found


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@pytest.mark.parametrize("whole", [OTLP, CONSOLE])
@given(data=st.data())
def test_junk_anywhere_raises_nothing_else(whole: object, data: st.DataObject) -> None:
    value = copy.deepcopy(whole)
    path = data.draw(st.sampled_from(places(whole)))
    junk = data.draw(JUNK)
    if not path:
        value = junk
    else:
        inner: Any = value
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = junk
    try:
        found = list(spans_of(value))
    except Unreadable:
        return
    for span in filter(None, found):
        assert span.trace_id
        json.dumps([span.start, span.end, dict(span.attributes)], allow_nan=False)
