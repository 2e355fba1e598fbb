"""A standby: a copy of a private server that follows it, and takes its place where it fails."""

from __future__ import annotations

from pathlib import Path
from subprocess import STDOUT, run

from psycopg import Error

from ..errors import LabError
from .janitor import Janitor
from .last_words import last_words
from .postgres import PrivatePostgres

__all__ = ["Standby"]

_COPIED_WITHIN = 60.0


class Standby(PrivatePostgres):
    """A hot standby of *primary*, with the same roles, passwords and settings.

    The primary has to let its superuser connect for replication from loopback.
    """

    def __init__(self, primary: PrivatePostgres, *, janitor: Janitor) -> None:
        super().__init__(
            binaries=primary.binaries,
            settings=primary.settings,
            addresses=primary.addresses,
            janitor=janitor,
        )
        self._password = primary.password
        self._primary = primary

    def take_over(self) -> None:
        """Stop the primary at once, and be at its address from now on: still as a standby, which
        serves reads, until :meth:`promote`."""
        port = self._primary.port
        with self.connect() as connection:
            connection.execute("ALTER SYSTEM SET primary_conninfo = ''")
        self._primary.stop("immediate")
        self.stop()
        self._port = port
        self.start()

    def promote(self) -> None:
        """Be the primary. Raises LabError where that fails."""
        try:
            with self.connect() as connection:
                row = connection.execute("SELECT pg_promote()").fetchone()
        except Error as error:
            raise LabError(f"{self!r} cannot be promoted: {error}") from None
        if row != (True,):
            raise LabError(f"{self!r} was not promoted within a minute")

    def _make(self, data: Path) -> None:
        command = self._account.command(
            "pg_basebackup",
            *("-D", data, "-d", self._primary.conninfo()),
            *("--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"),
        )
        options = self._account.popen_options()
        with self.log_path.open("ab") as log:
            done = run(
                command, stdout=log, stderr=STDOUT, check=False, timeout=_COPIED_WITHIN, **options
            )
        if done.returncode != 0:
            raise LabError(f"pg_basebackup failed ({last_words(self.read_log())})")
