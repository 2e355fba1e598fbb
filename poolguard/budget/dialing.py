"""What connects are made with, beside what the application says of its database.

The application has several ways to say something: a string, a callable's answer, libpq's variables
and a service file. What any of them says is obeyed; only the rest is filled in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from inspect import isawaitable
from types import MappingProxyType
from typing import Any

from ..settings import Settings
from .session import KEEPALIVES, OPTIONS

__all__ = ["Dialing", "effective"]

_OF_OPTIONS = re.compile(
    r"option|startup parameter|tcp_keepalives|client_connection_check", re.IGNORECASE
)
"""How a refusal reads that is about the options: each pooler has words of its own for it."""
_OF_OTHER_THINGS = re.compile(
    r"authentication|password|pg_hba|too many|reserved|starting up|shutting down|does not exist"
    r"|recovery",
    re.IGNORECASE,
)
_ANSWERED = re.compile(r"\b(FATAL|ERROR):")
_NONE: Mapping[str, Any] = MappingProxyType({})
_SETTINGS_ONLY = re.compile(r"\s*((-c\s*|--)[\w.-]+=(\\.|[^\s\\])*(\s+|$))*")


def effective(conninfo: str, **overrides: Any) -> dict[str, str]:
    """The parameters that libpq goes by, with those of its variables and of a service file.

    Without the password. Where the service is not known they are those of *conninfo*.
    """
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
    from psycopg.pq import PGconn

    # libpq tells this of a connection alone. There is no such sslmode, so this one goes nowhere.
    # With a password it does not look for one.
    nowhere = make_conninfo(conninfo, **{**overrides, "password": "-", "sslmode": "nowhere"})
    pgconn = PGconn.connect_start(nowhere.encode())
    try:
        found = {
            each.keyword.decode(): each.val.decode(errors="surrogateescape")
            for each in pgconn.info
            if each.val
        }
    finally:
        pgconn.finish()
    given = {key: str(value) for key, value in conninfo_to_dict(nowhere).items()}
    return {
        key: value
        for key, value in {**given, **found}.items()
        if key not in ("password", "sslmode")
    }


class Dialing:
    """What the connects of one opening are made with.

    It begins by sending the options that let the server notice that this process has died. What
    they set, ``RESET ALL`` and ``DISCARD ALL`` set again. Not everybody takes them: PostgreSQL 13
    and older do not know one of the settings, nor do some platforms, and poolers refuse those that
    they do not know. So they are given up, one after the other, where they are refused.
    """

    def __init__(self, settings: Settings) -> None:
        self._timeout = math.ceil(settings.connect_timeout)
        self._insists = settings.source("connect_timeout") != "default"
        self._left = () if settings.pooler in ("session", "transaction") else tuple(OPTIONS)
        self._proven = False
        """A connect with these options has succeeded."""

    def __repr__(self) -> str:
        return f"<Dialing with {self.options!r}>"

    @property
    def options(self) -> str:
        """The options that are sent now; empty: none."""
        return next(iter(self._left), "")

    def beside(self, conninfo: str, theirs: Mapping[str, Any] = _NONE) -> dict[str, Any]:
        """What is to be given to a connect beside *conninfo* and *theirs*: keywords of libpq's that
        the application overrules it with. Their ``options`` are replaced by what holds them, too.
        """
        given = effective(conninfo, **theirs)
        asked = given.get("connect_timeout")
        more: dict[str, Any] = {name: n for name, n in KEEPALIVES.items() if name not in given}
        if "connect_timeout" in theirs:
            pass
        elif self._insists or asked is None:
            more["connect_timeout"] = self._timeout
        elif "service" in given:
            more["connect_timeout"] = asked  # psycopg does not look into service files
        return more | self.joined(given.get("options", ""))

    def joined(self, theirs: str) -> dict[str, str]:
        """The options that are sent now before *theirs*; nothing where they cannot be joined."""
        if not self.options or not _SETTINGS_ONLY.fullmatch(theirs):
            return {}
        return {"options": f"{self.options} {theirs}".rstrip()}  # the last one of a name counts

    def completing(
        self, dsn: Callable[[], Any], theirs: Mapping[str, Any] = _NONE
    ) -> Callable[[], Any]:
        """*dsn*, whose answers have in them what is to be given beside them and *theirs*."""

        def conninfo() -> Any:
            answer = dsn()
            if isawaitable(answer):
                return self._later(answer, theirs)
            return self._complete(answer, theirs)

        return conninfo

    async def _later(self, answer: Any, theirs: Mapping[str, Any]) -> str:
        return self._complete(await answer, theirs)

    def _complete(self, answer: str, theirs: Mapping[str, Any]) -> str:
        from psycopg.conninfo import make_conninfo

        return make_conninfo(answer, **self.beside(answer, theirs))

    def succeeded(self, *, pooled: bool) -> None:
        """A connect has succeeded. What is *pooled* is not to be told anything."""
        self._proven = True
        if pooled:
            self._left = ()

    def refused(self, error: BaseException) -> bool:
        """A connect has failed with *error*. True: it may be tried again at once, with less."""
        text = str(error)
        if not self._left or not _ANSWERED.search(text):
            return False
        if not _OF_OPTIONS.search(text):
            if not self._proven and not _OF_OTHER_THINGS.search(text):
                self._left = ()  # who knows: from the next connect on
            return False
        self._left = self._left[1:] if "client_connection_check" in text else ()
        return True
