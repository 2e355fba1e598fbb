"""An engine in the way of PostGIS's and django-tenants': it has something to say of each
connection, and of each cursor."""

from __future__ import annotations

from typing import Any

from django.db.backends.postgresql import base

from poolguard.django.mixin import PoolGuardMixin


class Tenants(base.DatabaseWrapper):  # type: ignore[misc]
    """Of another package, which knows nothing of guards."""

    schema = "public"
    _schema_set = ""
    registered = 0

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        connection = super().get_new_connection(conn_params)
        self.registered += 1  # PostGIS has its types known here
        return connection

    def close(self) -> None:
        self._schema_set = ""
        super().close()

    def _cursor(self, name: str | None = None) -> Any:
        cursor = super()._cursor(name)
        if self._schema_set != self.schema:
            self._schema_set = self.schema
            with self.connection.cursor() as other:
                other.execute("SELECT set_config('search_path', %s, false)", [self.schema])
        return cursor


class DatabaseWrapper(PoolGuardMixin, Tenants):
    """As a user writes it."""
