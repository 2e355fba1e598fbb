"""Reads files of recorded spans line by line; what cannot be read is counted, and not fatal.

A file may never end, or be a thousand times as long once it is unpacked. So each byte is looked at
once or twice, and no more is kept than one line, one value and the spans.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from ..errors import PoolguardError
from ..telemetry.recorded import Span, Unreadable, spans_of
from ..util.escape import escaped

__all__ = ["STDIN", "Recorded", "read"]

STDIN = "-"

LONGEST = 32 << 20
"""The most bytes of one line, or of JSON that spreads over lines. The Collector's batches have
fewer."""
PATIENCE = 256 << 20
"""Bytes without a span, after which a file is given up: it may be one that never ends."""
SHORTEST = 100
"""The least bytes that a line counts for: a short one takes no less time."""
DEEPEST = 200
"""The most brackets within one another. The exporters' JSON has some ten."""

_BEGINNING = re.compile(rb"\{\s*(?:[\"}]|$)|\[\s*(?:[\[{\]]|$)")
"""The beginning of JSON that may hold spans, and of no line of a log that begins with a bracket."""
_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]]')
_CLOSES = {b"}": b"{", b"]": b"["}
_GZIP = b"\x1f\x8b"
_BINARY = "binary, protobuf perhaps"
_NOT_JSON = "not JSON"
_CUT_SHORT = "compressed data that ends too early"
_TOO_LONG = f"JSON or a line of more than {LONGEST >> 20} MiB"
_LONG = f"{PATIENCE >> 20} MiB, or {PATIENCE // SHORTEST / 10**6:.1f} million lines,"
_NO_MORE = f"what follows {_LONG} without a span"
_NOT_WHOLE = "a span without its ids or times"
_WANTED = (
    "It takes OTLP/JSON lines, as the Collector's file exporter writes them, and what the SDK's "
    "ConsoleSpanExporter writes"
)


@dataclass(slots=True)
class Recorded:
    """The spans that some files hold, and what could not be read there."""

    spans: list[Span] = field(default_factory=list)
    lines: int = 0
    """How many lines are not blank."""
    unread: Counter[str] = field(default_factory=Counter)
    """How often something could not be read, by the reason."""
    duplicates: int = 0
    """How many spans were left out because they had been read before."""
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
    """The spans in these files; ``-`` is standard input.

    :raises PoolguardError: a file cannot be opened, or there is no span in any of them.
    """
    recorded = Recorded()
    for name in names:
        try:
            with _opened(name) as stream:
                _read(stream, recorded)
        except OSError as error:
            raise PoolguardError(f"cannot read {_told(name)}: {error.strerror or error}") from None
    if not recorded.spans:
        raise PoolguardError(f"no spans in {', '.join(map(_told, names))}: {_excuse(recorded)}")
    return recorded


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    with open(0 if name == STDIN else name, "rb", closefd=name != STDIN) as stream:
        if stream.peek(len(_GZIP)).startswith(_GZIP):
            with gzip.open(stream) as unpacked:
                yield cast("BinaryIO", unpacked)
        else:
            yield stream


def _read(stream: BinaryIO, recorded: Recorded) -> None:
    text = _Text(recorded)
    read = 0
    try:
        while line := stream.readline(LONGEST):
            read += max(len(line), SHORTEST)
            if len(line) == LONGEST and not line.endswith(b"\n"):
                text.skip(line)
                while (line := stream.readline(LONGEST)) and not line.endswith(b"\n"):
                    if (read := read + len(line)) > text.read_on:
                        break
            else:
                text.add(line)
            if text.found:
                text.found, text.read_on = False, read + PATIENCE
            elif text.is_binary and text.read_on == PATIENCE:
                break
            elif read > text.read_on:
                recorded.unread[_NO_MORE] += 1
                break
    except (EOFError, zlib.error, gzip.BadGzipFile):
        recorded.unread[_CUT_SHORT] += 1
    text.end()


class _Text:
    """The lines of a file, which may be JSON each, JSON that spreads over several, or neither."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self._value = bytearray()
        """JSON that has begun and goes on in the next line."""
        self._open = bytearray()
        """The brackets that are open in it."""
        self.found = False
        """Whether there were spans since this was last set to false."""
        self.is_binary = False
        self.read_on = PATIENCE
        """After how many bytes the file is given up, unless spans come before."""

    def add(self, line: bytes) -> None:
        """Take the next line. The time that this takes does not depend on the lines before."""
        line = line.removeprefix(codecs.BOM_UTF8)
        shorn = line.strip()
        if not shorn:
            return
        self._recorded.lines += 1
        begins = _BEGINNING.match(line) is not None
        if self._value:
            if not begins or self._wants_value():
                self._go_on(shorn)
                return
            self._give_up()  # its process may have been killed as it wrote; this is another value
        if _BEGINNING.match(shorn) is None:
            self._refuse(shorn)
            return
        try:
            self._take(json.loads(shorn))
        except json.JSONDecodeError as error:
            if begins and error.pos >= len(error.doc):
                self._go_on(shorn)
            else:
                self._refuse(shorn)
        except (ValueError, RecursionError):
            self._refuse(shorn)

    def skip(self, begin: bytes) -> None:
        """Count a line that is too long to be read, and begins with *begin*."""
        self._recorded.lines += 1
        self.is_binary |= b"\0" in begin
        self._recorded.unread[_BINARY if self.is_binary else _TOO_LONG] += 1
        self._value.clear()
        self._open.clear()

    def end(self) -> None:
        """Take note that the file has ended."""
        if self._value:
            self._give_up()

    def _wants_value(self) -> bool:
        """Whether what has begun must go on with a value.

        In indented JSON no value within another one stands at the margin.
        """
        return self._value.endswith((b"[", b":")) or (
            self._value.endswith(b",") and self._open.endswith(b"[")
        )

    def _go_on(self, shorn: bytes) -> None:
        self._value += shorn
        for found in _STRUCTURE.finditer(shorn):
            bracket = found[0]
            if bracket in (b"{", b"["):
                self._open += bracket
            elif bracket in _CLOSES:
                if not self._open.endswith(_CLOSES[bracket]):
                    self._give_up()
                    return
                del self._open[-1:]
        if not self._open:
            self._complete()
        elif len(self._value) > LONGEST or len(self._open) > DEEPEST:
            self._give_up()

    def _complete(self) -> None:
        value = bytes(self._value)
        self._value.clear()
        try:
            self._take(json.loads(value))
        except (ValueError, RecursionError):
            self._refuse(value)

    def _give_up(self) -> None:
        kind = _TOO_LONG if len(self._value) > LONGEST else _NOT_JSON
        self._recorded.unread[kind] += 1
        self._value.clear()
        self._open.clear()

    def _take(self, value: object) -> None:
        try:
            self._recorded.take(spans_of(value))
            self.found = True
        except Unreadable as kind:
            self._recorded.unread[str(kind)] += 1

    def _refuse(self, shorn: bytes) -> None:
        binary = _is_binary(shorn)
        self.is_binary |= binary
        self._recorded.unread[_BINARY if binary else _NOT_JSON] += 1


def _is_binary(line: bytes) -> bool:
    try:
        return "\0" in line.decode()
    except UnicodeDecodeError:
        return True


def _excuse(recorded: Recorded) -> str:
    """The reason for which there are no spans, for an error."""
    if not recorded.unread:
        return "it has none" if recorded.lines else "it is empty"
    kinds = recorded.unread.most_common()
    if kinds[0][0] == _NO_MORE:
        return f"it has none in its first {_LONG[:-1]}"
    return f"it is {_BINARY if _BINARY in recorded.unread else kinds[0][0]}. {_WANTED}"


def _told(name: str) -> str:
    return "standard input" if name == STDIN else escaped(name)
