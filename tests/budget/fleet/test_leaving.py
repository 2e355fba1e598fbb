"""A host that leaves, as the policies of the others see it: pure decisions."""

from __future__ import annotations

from poolguard.budget.fleet.board import Board, Line
from poolguard.budget.fleet.policy import Figures, Note, Policy

FIGURES = Figures(budget=12, workers=1, floors=2, granted=2, used=2, free=0, need=0)
LINE = Line("other", 12, 1, 2, 2, 2, 0)
BOTH = Board({1: LINE._replace(host="one"), 2: LINE})


def joined() -> Policy:
    """The host 1, which has seen the host 2."""
    policy = Policy("one")
    policy.joined(0.0, 1, 3, lost=False, restarted=True)
    policy.saw(0.0, BOTH, FIGURES)
    return policy


def test_who_has_said_bye_is_no_host_though_the_board_has_it_still() -> None:
    """It says so before its session ends, and the board may be read in between: its share would be
    nobody's until the next look."""
    policy = joined()
    assert policy.right(FIGURES).fair == 4, "a half of 12 - 2 control sessions - 1"
    policy.heard(1.0, Note("bye", 2))
    policy.saw(1.0, BOTH, FIGURES)
    assert policy.board.lines.keys() == {1}
    assert policy.right(FIGURES).fair == 10


def test_a_session_that_has_the_pid_of_one_that_has_left_is_a_host() -> None:
    policy = joined()
    policy.heard(1.0, Note("bye", 2))
    policy.heard(2.0, Note("hello", 2))
    policy.saw(2.0, BOTH, FIGURES)
    assert policy.board.lines.keys() == {1, 2}
