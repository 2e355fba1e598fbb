"""What has to hold of the spans of a request, whoever has instrumented it."""

from __future__ import annotations

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from ..support import end_of, start_of, tags

__all__ = ["acquires", "by_whom", "judge", "servers"]


def acquires(exported: InMemorySpanExporter) -> list[ReadableSpan]:
    """The spans of acquires, in the order in which they ended."""
    found = [each for each in exported.get_finished_spans() if each.name == "pool.acquire"]
    return sorted(found, key=end_of)


def by_whom(exported: InMemorySpanExporter) -> str:
    """The name of the package that has begun the server's span."""
    [server] = [each for each in exported.get_finished_spans() if each.kind is SpanKind.SERVER]
    assert server.instrumentation_scope is not None
    return server.instrumentation_scope.name


def servers(exported: InMemorySpanExporter) -> int:
    """How many server spans there were since this was last asked."""
    spans = exported.get_finished_spans()
    exported.clear()
    return sum(each.kind is SpanKind.SERVER for each in spans)


def judge(
    exported: InMemorySpanExporter, count: int, *, early: int = 0, late: int = 0
) -> ReadableSpan:
    """Judge the spans of the one request that was served, whose guards have ``spans="all"``.

    Its one server span has the tags of all acquires but the late ones; no other span has any; and
    each acquire is a child of a span of the request, and was when it was.

    :param count: how often the request acquired.
    :param early: how often of these before its server span began.
    :param late: how often of these after its server span had ended.
    """
    spans = exported.get_finished_spans()
    [server] = [each for each in spans if each.kind is SpanKind.SERVER]
    told = count - late
    assert tags(server) == (
        {"outcome": "acquired", "acquire_count": told, "wait_time": 0.0} if told else {}
    )
    assert [each.name for each in spans if each is not server and tags(each)] == []
    known = {each.context.span_id: each for each in spans if each.name != "pool.acquire"}
    found = acquires(exported)
    assert len(found) == count
    for each in found[:early]:
        assert end_of(each) <= start_of(server)
    for each in found[early:told]:
        assert start_of(server) <= start_of(each) <= end_of(each) <= end_of(server)
    for each in found[told:]:
        assert end_of(server) <= start_of(each)
    for each in found:
        assert each.parent is not None
        assert each.parent.span_id in known
        assert each.context.trace_id == server.context.trace_id
    return server
