"""What outsiders write, made fit for a log or a screen."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from poolguard.util.escape import as_json, escape_errors, escaped

from ..support import HOSTILE, obeyed

ALL = "a".join([*obeyed("".join(map(chr, range(sys.maxunicode + 1)))), "\n", "\t"])


def test_nothing_is_left_that_a_terminal_obeys() -> None:
    assert len(ALL) > 2000  # the surrogates are among them
    assert obeyed(escaped(ALL)) == []
    assert "\n" not in escaped(ALL)


@pytest.mark.parametrize("text", ["", "GET /orders/42?a=b c", "größe · 数 → é", r"C:\temp"])
def test_what_is_fit_stays_as_it_is(text: str) -> None:
    assert escaped(text) == text


def test_it_is_escaped_as_python_writes_it() -> None:
    assert escaped("a\x1b[2J\r\n\x9b\u202e\ud800") == r"a\x1b[2J\r\n\x9b\u202e\ud800"


def test_json_keeps_what_it_holds_and_shows_none_of_it() -> None:
    value = {ALL: [ALL, 1.5]}
    assert json.loads(as_json(value)) == value
    assert obeyed(as_json(value, indent=1)) == []


def test_errors_among_the_arguments_of_a_record_are_escaped() -> None:
    error = ValueError(HOSTILE)
    record = logging.LogRecord("x", logging.INFO, "", 1, "%s: %d %s", (error, 3, "name"), None)
    assert escape_errors(record)
    assert record.getMessage() == f"{escaped(HOSTILE)}: 3 name"
    record.args = {"by": "name"}
    assert escape_errors(record)
