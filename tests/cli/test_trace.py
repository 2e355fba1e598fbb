"""``poolguard trace``: figures and trees from real exporters' files, a clear line from bad ones."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import SpanKind

from poolguard.cli import spanfiles
from tests.cli.conftest import Ran, Run, elsewhere
from tests.cli.recording import EPOCH, Encoding, Recording

EVERYTHING = """\
10 requests in 1.02 s, service shop

acquired  6  60.0 %  took a free connection and did not wait
waited    1  10.0 %  waited for another request to return one
created   1  10.0 %  waited while a connection was being created
timeout   1  10.0 %  gave up waiting after acquire_timeout
none      1  10.0 %  acquired nothing

         median    99th  longest
latency   11 ms  211 ms   211 ms
wait       0 ms  200 ms   200 ms

Waiting for a connection took 78 % of the requests' time: 390 ms of 503 ms.

route           requests  created  waited  99th wait  total wait
/orders/{id}/x         1        0       0     200 ms      200 ms
/orders                8        1       1     150 ms      190 ms
/health                1        0       0          –        0 ms

timeout: waited 200 ms of 211 ms (95 %), trace 00000000000000140000000000000000
GET /orders                ███████████████████████████████████████████    211 ms
│  http.route /orders/{id}/x · otel.status_code ERROR ·
│  poolguard.request.outcome timeout · .acquire_count 1 · .wait_time 200 ms
└─ pool.acquire            █████████████████████████████████████████      200 ms
      poolguard.acquire.outcome timeout · .wait_time 200 ms

created: waited 150 ms of 161 ms (93 %), trace 00000000000000100000000000000000
GET /orders                ███████████████████████████████████████████    161 ms
│  http.route /orders · poolguard.request.outcome created · .acquire_count 1 ·
│  .wait_time 150 ms
└─ pool.acquire            █████████████████████████████████████████      150 ms
   │  poolguard.acquire.outcome created · .wait_time 150 ms
   └─ pool.connect         █████████████████████████████████████████      148 ms
         server.address db.internal · .port 5432 · db.namespace shop
"""


def everything(encoding: Encoding = "otlp") -> str:
    """Ten requests of all kinds."""
    made = Recording(encoding)
    for number in range(6):
        made.request("acquired", at=100 * number)
    made.request("waited", at=600, wait=40)
    made.request("created", at=700, wait=150)
    made.request("timeout", at=810, wait=200, route="/orders/{id}/x")
    made.span("GET /health", 900, 914, kind=SpanKind.SERVER, http__route="/health")
    return made.text


@pytest.fixture
def tell(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command on these contents, a file each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def tell(*contents: str | bytes, options: tuple[str, ...] = ()) -> Ran:
        names = []
        for number, content in enumerate(contents):
            names.append(f"spans-{number}.jsonl")
            raw = content.encode() if isinstance(content, str) else content
            Path(names[-1]).write_bytes(raw)
        return run("trace", *options, *names)

    return tell


def figures(ran: Ran) -> dict[str, Any]:
    assert (ran.status, ran.err) == (0, "")
    told = json.loads(ran.out)
    assert isinstance(told, dict)
    return told


# --- what it says


@pytest.mark.parametrize("encoding", ["otlp", "console", "pretty"])
def test_every_encoding_tells_the_same(tell: Any, encoding: Encoding) -> None:
    ran = tell(everything(encoding), options=("--routes", "--slowest", "2"))
    assert (ran.status, ran.err, ran.out) == (0, "", EVERYTHING)


def test_for_machines(tell: Any) -> None:
    told = figures(tell(everything(), options=("--json", "--slowest", "1")))
    [slowest] = told.pop("slowest")
    routes = told.pop("routes")
    assert told == {
        "version": 1,
        "services": ["shop"],
        "requests": 10,
        "outcomes": {"acquired": 6, "waited": 1, "created": 1, "timeout": 1},
        "acquired_nothing": 1,
        "latency": pytest.approx(
            {"p50": 0.011, "p99": 0.211, "maximum": 0.211, "total": 0.503}, rel=1e-4
        ),
        "wait": pytest.approx({"p50": 0.0, "p99": 0.2, "maximum": 0.2, "total": 0.39}, rel=1e-4),
        "share": pytest.approx(0.39 / 0.503, rel=1e-4),
        "read": {"lines": 14, "spans": 14, "duplicates": 0, "elsewhere": 0, "unread": {}},
    }
    assert [route["route"] for route in routes] == ["/orders/{id}/x", "/orders", "/health"]
    spans = slowest.pop("spans")
    assert slowest == {
        "trace_id": "00000000000000140000000000000000",
        "outcome": "timeout",
        "route": "/orders/{id}/x",
        "duration": pytest.approx(0.211),
        "wait": 0.2,
        "share": pytest.approx(0.2 / 0.211, rel=1e-4),
    }
    assert [(span["name"], span["kind"]) for span in spans] == [
        ("GET /orders", "SERVER"),
        ("pool.acquire", "INTERNAL"),
    ]
    assert spans[0]["start"] == pytest.approx(EPOCH / 1e9 + 0.81)
    assert spans[1]["parent_id"] == spans[0]["span_id"]
    assert spans[1]["attributes"] == {
        "poolguard.acquire.outcome": "timeout",
        "poolguard.acquire.wait_time": 0.2,
    }


def test_the_slowest_are_as_many_as_asked_for_and_did_wait(tell: Any) -> None:
    assert "trace 0" not in tell(everything(), options=("--slowest", "0")).out
    assert tell(everything(), options=("--slowest", "9")).out.count("trace 0") == 3
    assert tell(everything(), options=("--slowest", "-1")).status == 2


def test_many_routes_are_cut_in_the_table_only(tell: Any) -> None:
    made = Recording()
    for number in range(25):
        made.request("waited", wait=100 + number, route=f"/{number}")
    ran = tell(made.text, options=("--routes", "--slowest", "0"))
    rows = [line.split()[0] for line in ran.out.splitlines() if line.startswith("/")]
    assert rows == [f"/{number}" for number in range(24, 4, -1)]
    assert "and 5 routes more, all of them in --json" in ran.out
    assert len(figures(tell(made.text, options=("--json",)))["routes"]) == 25


def test_no_line_is_wider_than_the_terminal(tell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (60, 80, 120, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        ran = tell(everything(), options=("--routes",))
        bars = [len(line) for line in ran.out.splitlines() if "█" in line]
        assert max(bars) == min(columns, 120)
        if columns >= 80:
            assert max(map(len, ran.out.splitlines())) <= columns


def test_standard_input_and_gzip(tmp_path: Path) -> None:
    packed = tmp_path / "spans.jsonl.gz"
    packed.write_bytes(gzip.compress(everything().encode()))
    expected = b"10 requests in 1.02 s, service shop"
    for source, name in ((None, str(packed)), (packed, "-")):
        with open(source or os.devnull, "rb") as stdin:
            done = subprocess.run(
                [sys.executable, "-m", "poolguard", "trace", name],
                stdin=stdin,
                capture_output=True,
                check=True,
            )
        assert done.stdout.splitlines()[0] == expected


def test_it_needs_neither_rich_nor_opentelemetry(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    path.write_text(everything())
    options = ("trace", "--routes", "--slowest", "2", str(path))
    plain = elsewhere("rich,opentelemetry", *options, COLUMNS="80", PYTHONIOENCODING="utf-8")
    assert (plain.returncode, plain.stderr, plain.stdout.decode()) == (0, b"", EVERYTHING)


def test_where_there_is_no_unicode_it_is_drawn_in_ascii(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    made = Recording(service="other")
    made.request("waited", wait=0.05, work=0.0)
    path.write_text(everything() + made.text.replace("00000000000000010000", "ab"))
    options = ("trace", "--routes", str(path))
    ascii_only = elsewhere("none", *options, COLUMNS="80", PYTHONIOENCODING="ascii")
    assert ascii_only.returncode == 0
    assert b"waited 50 us of 1." in ascii_only.stdout
    assert b"`- pool.acquire            ####" in ascii_only.stdout
    assert b"?" not in ascii_only.stdout


# --- spans that are not as one would like


def test_the_order_of_spans_and_files_does_not_matter(tell: Any) -> None:
    """Children before their parents, and in another file."""
    lines = everything().splitlines(keepends=True)
    ran = tell("".join(lines[1::2][::-1]), "".join(lines[::2]), options=("--slowest", "2"))
    without = tell(everything(), options=("--slowest", "2"))
    assert ran.out == without.out


def test_duplicates_count_once(tell: Any) -> None:
    ran = tell(everything(), everything("console"), options=("--routes", "--slowest", "2"))
    note = "Note: 14 spans left out that had come before.\n"
    assert ran.out.replace(f"{note}\n", "") == EVERYTHING


def test_what_has_no_request_is_in_no_tree(tell: Any) -> None:
    """A parent that is missing, and a child without one."""
    made = Recording()
    never = Recording().request("waited")
    made.span("pool.acquire", 0, 900, under=never, poolguard__acquire__outcome="waited")
    made.span("cron", 0, 900)
    made.request("waited", wait=30)
    ran = tell(made.text)
    assert "1 request in 41 ms" in ran.out
    assert ran.out.count("pool.acquire") == 1
    assert "cron" not in ran.out


def test_a_child_by_another_clock_leaves_room_for_the_others(tell: Any) -> None:
    made = Recording()
    root = made.request("waited", wait=30)
    made.span("rpc", 3_600_000, 3_600_010, under=root)
    made.span("rpc", -3_600_000, -3_599_990, under=root)
    bars = [line for line in tell(made.text).out.splitlines() if "█" in line]
    assert [line.count("█") for line in bars] == [43, 1, 32, 1]


def test_a_span_that_ends_before_it_begins_took_no_time(tell: Any) -> None:
    made = Recording()
    made.span(
        "GET", 50, 0, kind=SpanKind.SERVER, poolguard__request__outcome="waited",
        poolguard__request__wait_time=0.02,
    )  # fmt: skip
    ran = tell(made.text)
    assert (ran.status, ran.err) == (0, "")
    assert "waited 20 ms of 0 ms (0 %)" in ran.out


def test_a_request_of_very_many_spans_shows_the_pools_and_the_longest(tell: Any) -> None:
    made = Recording()
    root = made.request("created", wait=100)
    for number in range(500):
        made.span(f"SELECT {number}", 101, 101 + number / 100, under=root, kind=SpanKind.CLIENT)
    ran = tell(made.text)
    assert "pool.connect" in ran.out
    assert "SELECT 499 " in ran.out
    assert "SELECT 100 " not in ran.out
    assert ran.out.count("█ ") == 15
    assert "and 488 more spans" in ran.out


def test_spans_below_one_another_without_end(tell: Any) -> None:
    made = Recording()
    under = made.request("waited", wait=30)
    for _ in range(3000):
        under = made.span("deeper", 2, 3, under=under)
    assert tell(made.text).status == 0


def test_services_without_poolguard_count_for_nothing(tell: Any) -> None:
    """A gateway before it, and a service that it calls: part of the tree, not of the figures."""
    gateway, shop, stock = (Recording(service=name) for name in ("gateway", "shop", "stock"))
    entry = gateway.span("GET", 0, 500, kind=SpanKind.SERVER)
    for _ in range(3):  # ids of their own for shop's spans, as real ones have
        shop.span("boot", 0, 1)
    request = shop.request("waited", at=10, wait=100, under=entry)
    for _ in range(9):
        stock.span("boot", 0, 1)
    stock.span("GET /stock", 111, 115, kind=SpanKind.SERVER, under=request)
    told = figures(tell(gateway.text, shop.text, stock.text, options=("--json",)))
    assert (told["services"], told["requests"], told["read"]["elsewhere"]) == (["shop"], 1, 2)
    assert told["latency"]["total"] == pytest.approx(0.111)
    ran = tell(gateway.text, shop.text, stock.text)
    assert "Note: 2 requests of services without poolguard left out." in ran.out
    assert "service.name stock" in ran.out


def test_tags_on_an_inner_span_count_for_its_request(tell: Any) -> None:
    made = Recording()
    server = made.span("GET", 0, 100, kind=SpanKind.SERVER, http__route="/outer")
    middle = made.span("view", 1, 99, under=server)
    made.request("waited", wait=20, route="/inner", kind=SpanKind.INTERNAL, under=middle)
    told = figures(tell(made.text, options=("--json",)))
    assert (told["requests"], told["acquired_nothing"]) == (1, 0)
    assert told["latency"]["maximum"] == pytest.approx(0.1)
    assert told["slowest"][0]["route"] == "/outer"
    assert len(told["slowest"][0]["spans"]) == 4


def test_requests_without_tags_are_wondered_at(tell: Any) -> None:
    made = Recording()
    made.span("GET", 0, 100, kind=SpanKind.SERVER)
    ran = tell(made.text)
    assert "none      1  100.0 %  acquired nothing" in ran.out
    assert "Is the application in PoolGuardMiddleware" in " ".join(ran.out.split())


def test_nothing_secret_is_shown(tell: Any) -> None:
    """Only what is poolguard's own, and where and which; not what others have attached."""
    secret = "hunter2"
    made = Recording()
    root = made.span(
        "GET /", 0, 100, kind=SpanKind.SERVER, failed=True,
        poolguard__request__outcome="waited", poolguard__request__wait_time=0.05,
        http__request__header__authorization=[secret], http__url=f"http://a/?key={secret}",
        http__target=f"/orders?key={secret}", url__query=secret, enduser__id=secret,
    )  # fmt: skip
    made.span(
        "SELECT", 60, 90, kind=SpanKind.CLIENT, under=root, failed=True, db__query__text=secret,
        db__statement=secret, db__user=secret, db__namespace="shop",
        db__connection_string=f"postgresql://{secret}@db/",
    )  # fmt: skip
    for encoding in ((), ("--json",)):
        ran = tell(made.text, options=("--routes", *encoding))
        assert ran.status == 0
        assert secret not in ran.out
        assert "/orders" in ran.out
    assert secret in made.text


def test_text_of_others_reaches_no_terminal_as_it_is(tell: Any) -> None:
    bad = "\x1b[31m\nGET\ud800"
    made = Recording(service=bad.replace("\ud800", ""))
    made.request("waited", wait=30, route="/bad")
    line = made.text.replace('"/bad"', json.dumps(bad)).replace('"GET /orders"', json.dumps(bad))
    ran = tell(line.replace('"waited"', json.dumps(bad), 1), options=("--routes",))
    assert ran.status == 0
    assert r"\x1b[31m\nGET\ud800" in ran.out
    assert "\x1b" not in ran.out


# --- what cannot be read


def test_what_cannot_be_read_is_counted_and_said(tell: Any) -> None:
    broken = [
        "Listening at: http://127.0.0.1:8000",
        '{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "01", "spanId": "02"}, 7]}]}]}',
        '{"resourceMetrics": []}',
        "[" * 100_000,
        '{"cut": "sho',
    ]
    ran = tell("\n".join([broken[0], everything(), *broken[1:]]))
    assert (ran.status, ran.err) == (0, "")
    assert "10 requests" in ran.out
    note = " ".join(ran.out.split("Note: ")[1].split("\n\n")[0].split())
    assert note == (
        "not read: 3 × not JSON, 2 × a span without its ids or times, "
        "1 × metrics or logs, no traces."
    )


KINDS = "It takes OTLP/JSON lines, as the Collector's file exporter writes them, and what the SDK's"
JAEGER = {"data": [{"traceID": "1", "spans": [{"traceID": "1", "operationName": "GET"}]}]}
ZIPKIN = [{"traceId": "1", "id": "2", "kind": "SERVER", "timestamp": 1, "duration": 2}]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "it is empty"),
        (" \n\n", "it is empty"),
        ("GET / 200\nGET / 200\n", f"it is not JSON. {KINDS}"),
        (json.dumps(JAEGER), f"it is Jaeger's JSON. {KINDS}"),
        (json.dumps(JAEGER, indent=2), f"it is Jaeger's JSON. {KINDS}"),
        (json.dumps(ZIPKIN), f"it is Zipkin's JSON. {KINDS}"),
        (json.dumps(ZIPKIN, indent=2), f"it is Zipkin's JSON. {KINDS}"),
        ('{"resourceLogs": []}', f"it is metrics or logs, no traces. {KINDS}"),
        ('{"resourceSpans": []}', "it has none"),
        ("[]\n7\nnull\n{}", f"it is another kind of JSON. {KINDS}"),
        (b"\x00\x00\x00\x10\x0a\xff\xfe\n\x01{", f"it is binary, protobuf perhaps. {KINDS}"),
        (gzip.compress(b"x" * 99, mtime=0)[:-12], "it is compressed data that ends too early"),
        (b"\x1f\x8bno", "it is compressed data that ends too early"),
        ('{"context": {}, "name": 7}', "it is a span without its ids or times"),
    ],
)
def test_a_file_without_spans_is_one_clear_line(
    tell: Any, content: str | bytes, reason: str
) -> None:
    ran = tell(content)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"poolguard: no spans in spans-0.jsonl: {reason}")
    assert ran.err.count("\n") == 1


def test_spans_without_a_request_are_one_clear_line(tell: Any) -> None:
    made = Recording()
    made.span("cron", 0, 10)
    ran = tell(made.text)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == (
        "poolguard: no requests among the 1 span: none is of kind SERVER, and none has "
        "poolguard.request.outcome\n"
    )


def test_a_file_that_cannot_be_opened_is_one_clear_line(run: Run, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for path, reason in ((missing, "No such file or directory"), (tmp_path, "Is a directory")):
        ran = run("trace", str(path))
        assert (ran.status, ran.out) == (1, "")
        assert ran.err == f"poolguard: cannot read {path}: {reason}\n"


def test_an_empty_file_among_others_is_no_matter(tell: Any) -> None:
    """A worker that had no request."""
    ran = tell("", everything(), options=("--routes", "--slowest", "2"))
    assert (ran.status, ran.out) == (0, EVERYTHING)


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    path.write_text(everything())
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "poolguard", "trace", str(path)],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_thirty_thousand_spans_take_seconds(tell: Any) -> None:
    """It would be minutes if anything were done for each pair of spans."""
    made = Recording()
    for number in range(100):
        made.request("created", at=number, wait=100 + number)
    line, *_ = lines = [json.loads(line) for line in made.text.splitlines()]
    spans = [of["resourceSpans"][0]["scopeSpans"][0]["spans"][0] for of in lines]
    line["resourceSpans"][0]["scopeSpans"][0]["spans"] = spans
    batch = json.dumps(line)
    content = "\n".join(batch.replace('"00000000', f'"{n:08x}') for n in range(1, 101))
    began = time.monotonic()
    told = figures(tell(content, options=("--json",)))
    assert time.monotonic() - began < 9
    assert told["read"]["spans"] == 100 * 300
    assert told["requests"] == 100 * 100


# --- files of which nobody knows what they are


GUNICORNS = "[2026-11-29 03:33:33 +0000] [4711] [INFO] Booting worker with pid: 4711\n"


def test_json_that_spreads_over_lines_among_what_else_a_process_writes(tell: Any) -> None:
    """A log's lines, which begin with a bracket too, and a span that was cut short."""
    pretty = everything("pretty")
    cut = pretty[: pretty.index('"kind"')]
    end = "\n}\n"
    mixed = pretty.replace(end, end + GUNICORNS + cut + "\n", 3)
    ran = tell(mixed, options=("--routes", "--slowest", "2"))
    note = "Note: not read: 6 × not JSON.\n"
    assert note in ran.out
    assert ran.out.replace(f"{note}\n", "") == EVERYTHING


def test_one_value_over_many_lines_whatever_their_indentation(tell: Any) -> None:
    values = [json.loads(line) for line in everything().splitlines()]
    spans = {"resourceSpans": [each for value in values for each in value["resourceSpans"]]}
    for indent in (0, 2):
        text = "\ufeff" + json.dumps(spans, indent=indent)
        assert "10 requests in 1.02 s" in tell(text).out


@pytest.mark.parametrize("line", ["[\n", '{"a":\n', GUNICORNS, '["a",\n'])
def test_a_log_of_brackets_is_read_once(tell: Any, line: str) -> None:
    began = time.process_time()  # whatever else the machine has to do
    ran = tell(line * (600_000 // len(line)))
    assert (ran.status, ran.err.count("\n")) == (1, 1)
    assert time.process_time() - began < 10


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too long is so sooner."""
    monkeypatch.setattr(spanfiles, "LONGEST", 100_000)
    monkeypatch.setattr(spanfiles, "PATIENCE", 1_000_000)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"x" * 6_000_000, id="a line"),
        pytest.param(b"{\n" + b'"a": 1,\n' * 700_000, id="a value"),
        pytest.param(b"GET / 200\n" * 600_000, id="lines"),
        pytest.param(gzip.compress(b"x" * 6_000_000), id="packed"),
        pytest.param(gzip.compress(b'{"a": [' + b"1, " * 2_000_000), id="JSON, packed"),
    ],
)
def test_no_more_is_kept_than_a_line(run: Run, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    del content
    run("trace", "/nowhere")  # imports
    tracemalloc.start()
    try:
        assert run("trace", str(path)).status == 1
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1_000_000


@pytest.mark.usefixtures("short")
def test_what_follows_a_line_that_is_too_long_is_read(tell: Any) -> None:
    ran = tell(everything() + "x" * 250_000 + "\n" + everything("console"))
    assert "not read: 1 × JSON or a line of more than" in " ".join(ran.out.split())
    assert "Note: 14 spans left out that had come before." in ran.out


@pytest.mark.usefixtures("short")
def test_what_holds_nothing_for_long_is_given_up(tell: Any) -> None:
    """A device, say, that never ends. Where there are spans now and then, nothing is."""
    filler = "GET / 200\n" * 9_000
    ran = tell(filler + everything() + filler + everything("console"))
    assert "Note: 14 spans left out" in ran.out
    for filler in ("GET / 200\n" * 20_000, "x" * 2_000_000 + "\n"):
        ran = tell(everything() + filler + everything("console"))
        assert "what follows 256 MiB" in " ".join(ran.out.split())
        assert "14 spans" not in ran.out
    ran = tell("\n" * 20_000)
    assert ran.err.startswith("poolguard: no spans in spans-0.jsonl: it has none in its first 256")


def test_a_binary_file_is_not_read_to_its_end(run: Run) -> None:
    ran = run("trace", "/dev/zero")
    assert ran.err.startswith("poolguard: no spans in /dev/zero: it is binary")
