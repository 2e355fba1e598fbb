"""A test client, and a table to write to."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.doors.conftest import janitor, serve

if TYPE_CHECKING:
    from starlette.testclient import TestClient
    from starlette.types import ASGIApp

__all__ = ["MakeClient", "Things", "client_of", "janitor", "serve", "things"]

Things = Callable[[], list[str]]
MakeClient = Callable[["ASGIApp"], "TestClient"]


@pytest.fixture
def client_of() -> MakeClient:
    """Makes the client of an application, which answers what it raises with 500."""
    with warnings.catch_warnings():  # newer releases are about to need another library
        warnings.simplefilter("ignore")
        from starlette.testclient import TestClient

    return lambda app: TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def things(admin: psycopg.Connection) -> Iterator[Things]:
    """What is committed in the table ``things``."""
    admin.autocommit = True
    admin.execute("CREATE TABLE things (name text UNIQUE DEFERRABLE INITIALLY DEFERRED)")

    def found() -> list[str]:
        return [name for (name,) in admin.execute("SELECT name FROM things ORDER BY 1").fetchall()]

    yield found
    admin.execute("DROP TABLE things")
