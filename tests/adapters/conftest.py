"""A table that requests write to, which several frameworks' tests look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import pytest

if TYPE_CHECKING:
    import psycopg

__all__ = ["Things"]

Things: TypeAlias = Callable[[], list[str]]


@pytest.fixture
def things(admin: psycopg.Connection) -> Iterator[Things]:
    """What is committed in the table ``things``."""
    admin.autocommit = True
    admin.execute("CREATE TABLE things (name text UNIQUE DEFERRABLE INITIALLY DEFERRED)")

    def found() -> list[str]:
        return [name for (name,) in admin.execute("SELECT name FROM things ORDER BY 1").fetchall()]

    yield found
    admin.execute("DROP TABLE things")
