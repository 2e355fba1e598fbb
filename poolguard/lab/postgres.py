"""A private PostgreSQL server that lives as long as a ``with`` block and leaves nothing behind.

It leaves nothing after an exception, after Ctrl-C, or after ``kill -9`` of the process that uses
it: no postmaster runs that a :class:`~poolguard.lab.janitor.Janitor` does not watch.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGINT, SIGQUIT
from typing import Literal

from psycopg import sql
from psycopg.conninfo import make_conninfo

from ..errors import LabError
from . import account
from .account import Account
from .binaries import Binaries, find
from .initdb import DEFAULTS, make_data_folder
from .janitor import Janitor
from .last_words import last_words
from .postmaster import Postmaster
from .private_server import PrivateServer

__all__ = ["Mode", "PrivatePostgres"]

Mode = Literal["fast", "immediate"]

_SIGNALS: Mapping[str, int] = {"fast": SIGINT, "immediate": SIGQUIT}
_OURS = frozenset({"port", "listen_addresses", "unix_socket_directories", "logging_collector"})
_START_WITHIN = 20.0
_STOP_WITHIN = 20.0


class PrivatePostgres(PrivateServer):
    """One server on 127.0.0.1, with a data folder, a port and a password of its own.

    It is a context manager: entering starts the server, leaving stops it and deletes its folder,
    which holds ``data``, ``log`` and the Unix socket. In between :meth:`stop` and :meth:`start`
    keep data and port.
    """

    _process: Postmaster | None

    def __init__(
        self,
        *,
        binaries: Binaries | None = None,
        settings: Mapping[str, str] | None = None,
        addresses: Sequence[str] = (),
        janitor: Janitor | None = None,
    ) -> None:
        """``settings`` go to postgresql.conf, over the lab's own (no fsync, 100 connections).

        ``addresses`` are those at which it listens beside 127.0.0.1. ``janitor`` is one that
        already exists; without it the server starts its own. Raises :class:`LabError` when no
        PostgreSQL is found, or a setting is not the caller's to choose.
        """
        super().__init__(janitor)
        self.settings = {**DEFAULTS, **(settings or {})}
        if taken := sorted(_OURS & self.settings.keys()):
            raise LabError(f"setting {taken[0]!r} is chosen by the lab itself: leave it out")
        self.addresses = tuple(addresses)
        self.binaries = binaries or find()
        self._account = Account(self.binaries.bindir)
        self._password = secrets.token_hex(16)

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        return f"PrivatePostgres(version={self.version!r}, port={self._port}, {state})"

    @property
    def version(self) -> str:
        return self.binaries.version

    @property
    def password(self) -> str:
        """The superuser's."""
        return self._password

    @property
    def dsn(self) -> str:
        """A URL with the password, for the superuser ``postgres`` and the database ``postgres``."""
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/postgres"

    def conninfo(self, **overrides: str | int) -> str:
        """The same as ``key=value`` words, with libpq parameters changed or added."""
        return make_conninfo(self.dsn, **overrides)

    def create_role(self, name: str, *, connection_limit: int = -1) -> str:
        """Make an ordinary login role (-1: no limit of its own) and return its conninfo."""
        password = secrets.token_hex(16)
        statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} CONNECTION LIMIT {}").format(
            sql.Identifier(name), sql.Literal(password), sql.Literal(connection_limit)
        )
        with self.connect() as connection:
            connection.execute(statement)
        return self.conninfo(user=name, password=password)

    def stop(self, mode: Mode = "fast") -> None:
        """Stop it, wait until all its processes are gone, and keep its data. Idempotent.

        ``fast`` ends sessions and writes a checkpoint, ``immediate`` does neither. After 20 s it
        is killed.
        """
        if mode not in _SIGNALS:
            raise ValueError(f"mode={mode!r} is neither 'fast' nor 'immediate'")
        if self._process is None or os.getpid() != self._owner:
            return
        self._process.send_signal(_SIGNALS[mode])
        if self._process.gone_within(_STOP_WITHIN):
            self._forget()
        else:
            self.kill()

    def restart(self, mode: Mode = "fast") -> None:
        """Stop and start again, on the same port with the same data."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """SIGKILL the postmaster, and return when its backends are gone too: start() works then.

        Backends end when they notice; one that is too busy to notice within 1 s is killed. Raises
        :class:`LabError` when a process survives that for 5 s.
        """
        if self._process is None or os.getpid() != self._owner:
            return
        if not self._process.kill():
            raise LabError(
                f"processes of {self!r} survived SIGKILL for 5 s: look for them with ps, and make "
                f"a new PrivatePostgres"
            )
        self._forget()

    def _forget(self) -> None:
        if self._process is not None:
            self._process.clean_up()
            self._process = None

    def _end(self) -> None:
        self.stop()

    def _prepare(self) -> None:
        self.stop()  # what is left of one that ended by itself
        if self._folder is not None:
            return
        self._folder = folder = self._watcher().folder(account.parent_folder())
        self._account = account.choose(self.binaries, folder)
        self._make(folder / "data")

    def _make(self, data: Path) -> None:
        make_data_folder(
            data,
            major=self.binaries.major,
            password=self._password,
            settings=self.settings,
            account=self._account,
            janitor=self._watcher(),
        )

    def _launch(self, port: int) -> bool:
        with self.log_path.open("ab") as log:
            logged_before = log.tell()
            self._process = Postmaster(
                self.folder / "data",
                port,
                log=log,
                account=self._account,
                janitor=self._watcher(),
                addresses=self.addresses,
            )
        if self._process.ready_within(_START_WITHIN):
            return True
        running = self.running
        self.stop("immediate")
        words = self.log_path.read_bytes()[logged_before:].decode(errors="replace")
        if running:
            raise LabError(
                f"PostgreSQL {self.version} was not ready within {_START_WITHIN:g} s "
                f"({last_words(words)}): is this machine overloaded?"
            )
        if "Address already in use" in words:
            return False
        raise LabError(
            f"PostgreSQL {self.version} ended while starting ({last_words(words)}): correct what "
            f"it complains about, most likely in settings={self.settings}"
        )
