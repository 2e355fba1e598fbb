"""What hosts tell of themselves, by the names of their control sessions."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolguard.budget.fleet.board import LONGEST, MOST_WORKERS, Board, Line, prefix
from poolguard.budget.fleet.keys import VERSION, Keys
from poolguard.settings import MOST_SLOTS

KEYS = Keys.of("app@shop")
LINE = Line("web-1", 20, 2, 8, 9, 8, 1)

numbers = st.integers(0, 99) | st.integers(0, 1 << 40)
lines = st.builds(
    Line,
    st.text(),
    *[numbers] * 6,
    draining=st.booleans(),
    rejoined=st.booleans(),
)


@given(lines)
def test_a_line_is_read_as_it_was_told_whatever_its_numbers(line: Line) -> None:
    """No connection string or host's name can make it longer than a server keeps."""
    text = line.text(KEYS)
    assert len(text.encode()) <= LONGEST
    [(pid, told)] = Board.read(KEYS, [(7, text)]).lines.items()
    assert pid == 7
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", line.host)
    assert name.endswith(told.host)
    assert told[1:] == (
        min(line.budget, MOST_SLOTS),
        min(line.workers, MOST_WORKERS),
        *(min(n, MOST_SLOTS) for n in line[3:7]),
        line.draining,
        line.rejoined,
    )


def test_a_line_of_the_largest_numbers_fits_to_the_byte() -> None:
    n = 9 * MOST_SLOTS
    largest = Line("host", n, n, n, n, n, n, draining=True, rejoined=True)
    assert len(largest.text(KEYS)) == LONGEST


def test_of_a_long_name_its_end_is_told() -> None:
    """Names of one service's hosts differ there."""
    told = LINE._replace(host="shop-checkout-7d9f6b5c4-x2x7q").text(KEYS)
    assert told == "poolguard 1 f46951:-checkout-7d9f6b5c4-x2x7q b20 w2 f8 g9 u8 n1"
    assert LINE.text(KEYS) == "poolguard 1 f46951:web-1 b20 w2 f8 g9 u8 n1"
    assert LINE._replace(host="wéb 1", draining=True, rejoined=True).text(KEYS) == (
        "poolguard 1 f46951:w_b_1 b20 w2 f8 g9 u8 n1 d r"
    )


@pytest.mark.parametrize(
    "name",
    [
        "",
        "psql",
        "poolguard",
        prefix(KEYS),
        f"{prefix(KEYS)}web b20 w2 f8 g9 u8",
        f"{prefix(KEYS)}web b20 w2 f8 g9 u8 n-1",
        f"{prefix(KEYS)}web b20 w2 f8 g9 u8 n1 and more",
        LINE.text(Keys.of("another@shop")),
    ],
)
def test_other_sessions_are_passed_over(name: str) -> None:
    assert Board.read(KEYS, [(1, name), (2, LINE.text(KEYS))]) == Board({2: LINE})


def test_it_knows_for_how_long_its_members_have_been_there() -> None:
    board = Board.of(KEYS, [{"pid": 1, "name": LINE.text(KEYS), "age": 1.5}])
    assert board == Board({1: LINE}, ages={1: 1.5})


def test_a_mark_that_is_not_known_is_passed_over() -> None:
    """A later release may have more of them."""
    assert Board.read(KEYS, [(1, f"{LINE.text(KEYS)} x")]).lines == {1: LINE}


def test_members_of_another_version_are_noticed_whatever_they_tell() -> None:
    strange = f"{prefix(KEYS, VERSION + 1)}something else"
    board = Board.read(KEYS, [(1, LINE.text(KEYS)), (2, strange), (3, strange)])
    assert board == Board({1: LINE}, frozenset({VERSION + 1}))
    assert not Board.read(Keys.of("another@shop"), [(2, strange)]).strangers


def test_the_least_of_the_known_budgets_is_the_boards() -> None:
    budgets = {n: LINE._replace(budget=budget) for n, budget in enumerate((0, 30, 20))}
    assert Board(budgets).budget == 20
    assert Board({0: budgets[0]}).budget == 0
    assert Board().budget == 0
