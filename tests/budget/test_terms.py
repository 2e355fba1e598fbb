"""What processes tell each other of a budget: plain values."""

from __future__ import annotations

import pytest

from poolguard.budget.terms import ANYWHERE, Granted, Scope, Terms, learned

SHOP, STOCK = Scope.of("shop", "app"), Scope.of("stock", "app")
ADMIN = Scope.of("shop", "admin")


def test_a_limit_binds_its_database_or_its_role_or_all() -> None:
    assert SHOP.is_within(None)
    assert SHOP.is_within(Scope(database=SHOP.database))
    assert not STOCK.is_within(Scope(database=SHOP.database))
    assert STOCK.is_within(Scope(role=SHOP.role))
    assert not ADMIN.is_within(Scope(role=SHOP.role))
    assert ANYWHERE.is_within(Scope.of("", "")), "an unknown name is like another unknown one"


def test_what_another_database_or_role_has_is_not_learned() -> None:
    granted = Granted(90, role=20, database=30)
    assert learned([], SHOP) is None
    assert learned([(SHOP, granted)], SHOP) == granted
    assert learned([(STOCK, granted)], SHOP) == Granted(90, role=20)
    assert learned([(ADMIN, granted)], SHOP) == Granted(90, database=30)


def test_of_the_server_the_own_role_knows_best_and_the_least_counts() -> None:
    """It may reserve connections for one role and not for another."""
    known = [(ADMIN, Granted(80)), (STOCK, Granted(95)), (SHOP, Granted(93)), (SHOP, Granted(None))]
    assert learned(known, SHOP) == Granted(93)
    assert learned(known, Scope.of("shop", "third")) == Granted(80)


@pytest.mark.parametrize(
    ("parts", "share", "floor"), [(1, 12, 4), (2, 6, 1), (5, 2, 1), (99, 1, 1)]
)
def test_terms_are_divided_and_never_to_nothing(parts: int, share: int, floor: int) -> None:
    terms = Terms(Granted(97), 12, 2, 4, server=24, role=6)
    assert terms.divided(parts) == Terms(
        Granted(97), share, 2, floor, max(1, 24 // parts), None, max(1, 6 // parts)
    )


def test_what_others_leave_lowers_the_least_limit() -> None:
    assert Granted(90, role=20).within(7) == Granted(90, role=7)
    assert Granted(None).within(7) == Granted(None, database=7)
    assert Granted(90, role=20).least == 20
