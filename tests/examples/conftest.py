"""A database for each application, once for all tests of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from poolguard.lab.postgres import PrivatePostgres

from .applications import Application, Database

DatabaseOf = Callable[[Application], Database]


@pytest.fixture(scope="session")
def database_of(postgres: PrivatePostgres) -> DatabaseOf:
    """Makes it, with the application's migrations run."""
    return cache(lambda application: Database(application, postgres))
