"""What the parts of a pool take for a connection: for tests of decisions, in which nothing is sent.

A test of an application has connections of psycopg's own, to :class:`FakePostgres`.
"""

from __future__ import annotations

from typing import Any

__all__ = ["AsyncFakeConnection", "FakeConnection"]


class _Libpq:
    """What a pool reads off libpq's part of a connection."""

    def __init__(self) -> None:
        from psycopg.pq import ConnStatus, PipelineStatus, TransactionStatus

        self.status = ConnStatus.OK
        self.transaction_status = TransactionStatus.IDLE
        self.pipeline_status = PipelineStatus.OFF
        self.pgconn_ptr: object | None = self
        """None once the connection was closed on this side."""

    def finish(self) -> None:
        from psycopg.pq import ConnStatus, TransactionStatus

        self.status, self.transaction_status = ConnStatus.BAD, TransactionStatus.UNKNOWN
        self.pgconn_ptr = None


class FakeConnection:
    """Stands for a connection of psycopg's in a test of the pool's parts.

    :param error: raised by whatever waits for the server.
    """

    _poolguard_entry: Any
    _pool: Any = None

    def __init__(self, error: BaseException | None = None) -> None:
        self.pgconn = _Libpq()
        self.error = error

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.pgconn.transaction_status.name}>"

    @property
    def closed(self) -> bool:
        """Either side has ended it."""
        return self.pgconn.status.name == "BAD"

    @property
    def broken(self) -> bool:
        """The server has ended it, or the way to it."""
        return self.closed and self.pgconn.pgconn_ptr is not None

    def lose(self) -> None:
        """Have it be as after the server has ended it."""
        libpq = self.pgconn.pgconn_ptr
        self.pgconn.finish()
        self.pgconn.pgconn_ptr = libpq

    def wait(self) -> Any:
        """As psycopg's, through which all goes that is sent or received."""
        if self.error is not None:
            raise self.error


class AsyncFakeConnection(FakeConnection):
    """The same, for an async connection."""

    async def wait(self) -> None:
        super().wait()
