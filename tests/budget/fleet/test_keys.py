"""The names of a fleet in its database."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from poolguard.budget.fleet.keys import Keys

labels = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(labels)
def test_each_name_is_what_the_server_takes(label: str) -> None:
    """A lock's class is a signed integer of 32 bits, and a channel an identifier as it stands."""
    keys = Keys.of(label)
    classes = keys.lease, keys.seat, keys.urgent
    assert all(-(1 << 31) <= each < 1 << 31 for each in classes)
    assert len({*classes}) == 3
    assert re.fullmatch(r"poolguard_1_[0-9a-f]{6}", keys.channel)
    assert Keys.of(label) == keys


def test_a_label_that_is_no_text_has_keys_too() -> None:
    """A name from the environment may be any bytes."""
    assert Keys.of("r\udcffle@db") != Keys.of("role@db")


def test_the_keys_of_this_version_stay_as_they_are() -> None:
    """Members of two releases would otherwise each take the whole budget."""
    keys = Keys.of("app@shop")
    assert (keys.lease, keys.seat, keys.urgent) == (-1831712214, -1716513819, 1986920480)
    assert keys.short == "f46951"
