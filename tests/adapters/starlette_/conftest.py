"""A test client, and real servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.doors.conftest import janitor, serve

if TYPE_CHECKING:
    from starlette.testclient import TestClient
    from starlette.types import ASGIApp

__all__ = ["MakeClient", "client_of", "janitor", "serve"]

MakeClient = Callable[["ASGIApp"], "TestClient"]


@pytest.fixture
def client_of() -> MakeClient:
    """Makes the client of an application, which answers what it raises with 500."""
    from starlette.testclient import TestClient

    return lambda app: TestClient(app, raise_server_exceptions=False)
