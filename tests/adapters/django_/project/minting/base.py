"""An engine as those are that ask a cloud for a password of minutes at each connect."""

from __future__ import annotations

from typing import Any

from django.db.backends.postgresql import base

from poolguard.django.mixin import PoolGuardMixin

__all__ = ["DatabaseWrapper", "mint"]

password = ""


def mint(given: str) -> None:
    """From now on that is the password."""
    global password  # noqa: PLW0603
    password = given


class _Minting(base.DatabaseWrapper):  # type: ignore[misc]
    def get_connection_params(self) -> dict[str, Any]:
        return {**super().get_connection_params(), "password": password}


class DatabaseWrapper(PoolGuardMixin, _Minting):
    """The package's engine, on connections of the guard's."""
