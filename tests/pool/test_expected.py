"""What a pool's memory is told, and how its level stands above the floor: no server, no clock."""

from __future__ import annotations

from typing import Any

import pytest

from poolguard.budget.sharing import Owed
from poolguard.budget.static import NoSiblings
from poolguard.pool.expected import LEVEL_AGAIN, TOLD_AT_REST, TOLD_EVERY
from poolguard.pool.housekeeper import Housekeeper
from poolguard.pool.memory import Asked
from poolguard.pool.upkeep import Round
from poolguard.pool.waiter import Waiter
from tests.pool.test_housekeeper import NOW, arrived, connected, keeper, take


class Memory:
    """Keeps what it is told, and says the same level each time."""

    def __init__(self, level: int = 0) -> None:
        self.level = level
        self.told: list[Asked] = []
        self.reason = "day"
        self.asks = False
        self.closed = False

    def remember(self, asked: Asked) -> int:
        self.told.append(asked)
        return self.level

    async def ask(self, conn: Any) -> None:
        self.asks = False

    def close(self) -> None:
        self.closed = True


class Needy(NoSiblings):
    """They want one of this pool's connections."""

    def owed(self) -> Owed:
        return Owed(1, 0)


def remembering(memory: Memory, **arguments: Any) -> Housekeeper:
    made = keeper(**{"min_size": 0, **arguments})
    made.expected.memory, made.expected.by_memory = memory, memory.level
    return made


def come(made: Housekeeper, todo: Round, now: float) -> None:
    """All connects that were begun have ended well."""
    for opening in todo.openings:
        arrived(made, opening.entry, now)


def test_it_is_told_the_most_that_was_lent_and_waited_since_the_look_before() -> None:
    memory = Memory()
    made = remembering(memory)
    for _ in range(3):
        connected(made)
    conns = [take(made), take(made)]
    for conn in conns:
        made.core.give_back(conn._poolguard_entry, NOW)
    held = take(made)
    assert made.look(NOW + 1).asked == Asked(NOW, NOW + 1, 2, 0, 0, 0, 0)
    assert made.look(NOW + 3).asked == Asked(NOW + 1, NOW + 3, 1, 0, 0, 0, 0)
    made.core.give_back(held._poolguard_entry, NOW)


def test_no_level_is_told_that_the_pool_cannot_have() -> None:
    memory = Memory(level=50)
    made = remembering(memory, max_size=3)
    asked = made.look(NOW + 1).asked
    assert asked is not None
    assert asked.level == 3


def test_acquires_that_wait_and_what_is_made_for_them_are_told() -> None:
    memory = Memory(level=2)
    made = remembering(memory, min_size=1)
    for _ in range(3):
        made.core.acquire(NOW, Waiter(NOW, NOW + 5))
    made.outcomes._counts["created"] = 4
    assert made.look(NOW + 1).asked == Asked(NOW, NOW + 1, 0, 3, 4, 2, 1)
    asked = made.look(NOW + 2).asked
    assert asked is not None
    assert asked.created == 0


def test_while_anything_is_lent_it_is_told_every_few_seconds() -> None:
    made = remembering(Memory())
    connected(made)
    made.look(NOW)
    held = take(made)
    assert made.look(NOW + 1).wake == NOW + 1 + TOLD_EVERY
    made.core.give_back(held._poolguard_entry, NOW)
    assert keeper(min_size=0).look(NOW).asked is None


def test_at_rest_it_is_told_now_and_then() -> None:
    made = remembering(Memory())
    connected(made)
    assert made.look(NOW).asked is not None  # at once, since the pool begins with what it answers
    assert made.look(NOW + 1).asked is None
    assert made.look(NOW + TOLD_AT_REST).asked == Asked(NOW, NOW + TOLD_AT_REST, 0, 0, 0, 0, 0)
    assert made.look(NOW + TOLD_AT_REST + 1).asked is None


def test_without_a_memory_nothing_is_told() -> None:
    assert keeper().look(NOW).asked is None


def test_a_pool_warms_up_to_what_is_expected() -> None:
    made = remembering(Memory(level=5), min_size=2)
    todo = made.look(NOW)
    assert len(todo.openings) == 5
    for opening in todo.openings[:3]:
        arrived(made, opening.entry, NOW + 0.1)
    made.look(NOW + 0.1)
    assert made.warm_after is None
    for opening in todo.openings[3:]:
        arrived(made, opening.entry, NOW + 0.2)
    made.look(NOW + 0.2)
    assert made.warm_after == pytest.approx(0.2)


def test_what_does_not_come_beyond_the_floor_is_not_waited_for() -> None:
    """It hangs, or there was no slot for it."""
    made = remembering(Memory(level=5), min_size=2)
    todo = made.look(NOW)
    for opening in todo.openings[:2]:
        arrived(made, opening.entry, NOW + 0.1)
    made.look(NOW + 0.1)
    assert made.warm_after is None
    made.look(NOW + 2.0)
    assert made.warm_after is not None


def test_a_level_is_within_the_pools_bounds() -> None:
    made = remembering(Memory(level=50), min_size=2, max_size=7)
    come(made, made.look(NOW), NOW)
    made.look(NOW)
    assert made.core.counts().size == 7


def test_what_siblings_have_needed_is_left_to_them_for_a_while() -> None:
    made = remembering(Memory(level=4))
    come(made, made.look(NOW), NOW)
    assert made.look(NOW).openings == []
    made.leases.ledger.siblings = Needy()  # type: ignore[misc]
    assert len(made.look(NOW).surplus) == 1
    made.leases.ledger.siblings = NoSiblings()  # type: ignore[misc]
    assert made.look(NOW).openings == []
    assert made.look(NOW).wake == NOW + LEVEL_AGAIN
    assert len(made.look(NOW + LEVEL_AGAIN).openings) == 1


def test_a_process_that_ends_expects_nothing() -> None:
    made = remembering(Memory(level=4))
    made.leaving = True
    assert made.look(NOW).openings == []


def test_the_level_is_what_the_memory_says_last_and_the_memory_ends_with_the_pool() -> None:
    memory = Memory(level=2)
    made = remembering(memory)
    asked = made.look(NOW + TOLD_AT_REST).asked
    assert asked is not None
    assert not made.expected.tell(asked)
    memory.level = 3
    assert made.expected.tell(asked)
    assert (repr(made.expected), made.expected.has_fallen) == ("<Expected 3>", False)
    memory.level = 1
    assert made.expected.tell(asked)
    assert made.expected.has_fallen
    made.close()
    assert memory.closed
    assert not made.expected.tell(asked)


# --- the memory asks something over an idle connection


class Curious(Memory):
    """Wants an idle connection once it has been told anything."""

    def remember(self, asked: Asked) -> int:
        self.asks = True
        return super().remember(asked)


def test_once_it_asks_the_pool_is_to_be_looked_at() -> None:
    made = remembering(Curious())
    entry = connected(made)
    asked = made.look(NOW + 1).asked
    assert asked is not None
    assert made.expected.tell(asked)
    assert not made.expected.tell(asked)  # it is known by now
    assert [each for each, _, _ in made.look(NOW + 2).checks] == [entry]
    assert made.look(NOW + 3).checks == []  # one at a time


@pytest.mark.parametrize(
    ("lent", "idle", "waiting", "may"),
    [(0, 1, 0, True), (1, 1, 0, False), (1, 2, 0, True), (2, 0, 0, False), (0, 1, 1, False)],
)
def test_it_is_given_none_that_a_request_is_about_to_ask_for(
    lent: int, idle: int, waiting: int, may: bool
) -> None:
    made = remembering(Memory())
    assert isinstance(made.expected.memory, Memory)
    made.expected.memory.asks = True
    for _ in range(lent + idle):
        connected(made)
    held = [take(made) for _ in range(lent)]
    counts = made.core.counts()._replace(waiting=waiting)
    assert made.expected.may_ask(counts) is may
    for conn in held:
        made.core.give_back(conn._poolguard_entry, NOW)
