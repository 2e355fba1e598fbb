"""What an acquire was: judged on the connection that it was given."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from poolguard.listener import Outcome
from poolguard.pool.outcome import OUTCOMES, judge, worst


@pytest.mark.parametrize(
    ("began", "connected", "was_free", "outcome"),
    [
        (10.0, 9.0, True, "acquired"),
        (10.0, 9.0, False, "waited"),
        (10.0, 11.0, False, "created"),
        (10.0, 11.0, True, "created"),  # it came while the acquire waited for the pool's lock
        (10.0, 10.0, False, "created"),  # a clock may be coarser than a connect is fast
    ],
)
def test_judge(began: float, connected: float, was_free: bool, outcome: Outcome) -> None:
    assert judge(began=began, connected=connected, was_free=was_free) == outcome


def test_every_outcome_is_ranked_once() -> None:
    assert sorted(OUTCOMES) == sorted(get_args(Outcome))


def test_the_worst_is_the_later_in_the_list() -> None:
    for a, b in product(OUTCOMES, repeat=2):
        assert worst(a, b) == OUTCOMES[max(OUTCOMES.index(a), OUTCOMES.index(b))]
