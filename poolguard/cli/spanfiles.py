"""Files of recorded spans, read line by line; what cannot be read is counted, and not fatal."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..errors import PoolguardError
from ..escape import escaped
from ..telemetry.recorded import Span, Unreadable, spans_of

__all__ = ["STDIN", "Recorded", "read"]

STDIN = "-"

_BEGINNING = re.compile(r"^[{\[]", re.MULTILINE)
_GZIP = b"\x1f\x8b"
_BINARY = "binary, protobuf perhaps"
_NOT_JSON = "not JSON"
_CUT_SHORT = "compressed data that ends too early"
_NOT_WHOLE = "a span without its ids or times"
_WANTED = (
    "It takes OTLP/JSON lines, as the Collector's file exporter writes them, and what the SDK's "
    "ConsoleSpanExporter writes"
)


@dataclass(slots=True)
class Recorded:
    """What some files hold."""

    spans: list[Span] = field(default_factory=list)
    lines: int = 0
    """Lines that are not blank."""
    unread: Counter[str] = field(default_factory=Counter)
    """What could not be read: how often for which reason."""
    duplicates: int = 0
    """Spans left out since they had been there before."""
    _seen: set[tuple[str, str]] = field(default_factory=set)

    def take(self, spans: Iterable[Span | None]) -> None:
        """Add them, each once."""
        for span in spans:
            if span is None:
                self.unread[_NOT_WHOLE] += 1
                continue
            key = span.trace_id, span.span_id
            if key in self._seen:
                self.duplicates += 1
                continue
            self._seen.add(key)
            self.spans.append(span)


def read(names: Sequence[str]) -> Recorded:
    """The spans in these files, ``-`` being standard input.

    :raises PoolguardError: a file cannot be opened, or there is no span in any of them.
    """
    recorded = Recorded()
    for name in names:
        try:
            with _opened(name) as lines:
                _read(lines, recorded)
        except OSError as error:
            raise PoolguardError(f"cannot read {_told(name)}: {error.strerror or error}") from None
    if not recorded.spans:
        raise PoolguardError(f"no spans in {', '.join(map(_told, names))}: {_excuse(recorded)}")
    return recorded


@contextmanager
def _opened(name: str) -> Iterator[Iterable[bytes]]:
    with open(0 if name == STDIN else name, "rb", closefd=name != STDIN) as stream:
        if stream.peek(len(_GZIP)).startswith(_GZIP):
            with gzip.open(stream) as unpacked:
                yield unpacked
        else:
            yield stream


def _read(lines: Iterable[bytes], recorded: Recorded) -> None:
    unread: Counter[str] = Counter()
    held: list[bytes] | None = []  # until a line could be read: it might be JSON of many lines
    for line in _not_blank(lines, recorded):
        recorded.lines += 1
        if held is not None:
            held.append(line)
        try:
            recorded.take(spans_of(json.loads(line)))
            held = None
        except Unreadable as kind:
            unread[str(kind)] += 1
        except (ValueError, RecursionError):
            unread[_BINARY if _is_binary(line) else _NOT_JSON] += 1
    if held and _BINARY not in unread:
        text = b"".join(held).decode()
        if _BEGINNING.search(text):
            unread = _take_values(text, recorded)
    recorded.unread += unread


def _not_blank(lines: Iterable[bytes], recorded: Recorded) -> Iterator[bytes]:
    try:
        yield from (line for line in lines if not line.isspace())
    except (EOFError, zlib.error, gzip.BadGzipFile):
        recorded.unread[_CUT_SHORT] += 1


def _take_values(text: str, recorded: Recorded) -> Counter[str]:
    """Take spans from JSON that spreads over lines, whatever stands between them."""
    unread: Counter[str] = Counter()
    decode = json.JSONDecoder().raw_decode
    at = 0
    while (begin := _BEGINNING.search(text, at)) is not None:
        at = begin.end()
        try:
            value, at = decode(text, begin.start())
            recorded.take(spans_of(value))
        except Unreadable as kind:
            unread[str(kind)] += 1
        except (ValueError, RecursionError):
            unread[_NOT_JSON] += 1
    return unread


def _is_binary(line: bytes) -> bool:
    try:
        return "\0" in line.decode()
    except UnicodeDecodeError:
        return True


def _excuse(recorded: Recorded) -> str:
    """Why there are no spans."""
    if not recorded.unread:
        return "it has none" if recorded.lines else "it is empty"
    kind = _BINARY if _BINARY in recorded.unread else recorded.unread.most_common(1)[0][0]
    return f"it is {kind}. {_WANTED}"


def _told(name: str) -> str:
    return "standard input" if name == STDIN else escaped(name)
