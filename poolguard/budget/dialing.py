"""The parameters that connects are given beside those of the application: timeouts and options.

The application has several ways to set a parameter: a string, a callable's answer, libpq's
variables and a service file. What any of them sets is obeyed. Only the rest is filled in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from inspect import isawaitable
from types import MappingProxyType
from typing import Any

from ..settings import Settings
from .session import KEEPALIVES, LONGEST_NAME, OPTIONS, RESET_MARK

__all__ = ["OURS", "Dialing", "effective"]

_OF_OPTIONS = r"(?i)option|startup parameter|tcp_keepalives|client_connection_check"
"""The words of a refusal that is about the options. Each pooler has its own."""
_OF_OTHER_THINGS = (
    r"(?i)authentication|password|pg_hba|too many|reserved|starting up|shutting down|does not exist"
    r"|recovery"
)
_ANSWERED = r"\b(FATAL|ERROR):"
OURS = "poolguard"
"""The application_name of sessions that the application gives none."""
_NONE: Mapping[str, Any] = MappingProxyType({})
_SETTINGS_ONLY = re.compile(r"\s*((-c\s*|--)[\w.-]+=(\\.|[^\s\\])*(\s+|$))*")


def effective(conninfo: str, **overrides: Any) -> dict[str, str]:
    """The parameters that libpq goes by, with those of its variables and of a service file.

    The password and sslmode are left out. Where the service is not known, the parameters are those
    of *conninfo*.
    """
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
    from psycopg.pq import PGconn

    # libpq tells this of a connection only. There is no such sslmode, so this one goes nowhere. It
    # is given a password so that it does not look for one.
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
    """What the connects of one opening are given.

    At first these are the options that let the server notice that this process has died. What they
    set, ``RESET ALL`` and ``DISCARD ALL`` set again. PostgreSQL 13 and older do not know one of the
    settings, nor do some platforms, and poolers refuse options that they do not know. So options
    that are refused are given up, one after the other.

    :param marks: sessions are to show by their names that they were reset (:data:`.RESET_MARK`).
    """

    def __init__(self, settings: Settings, *, marks: bool = False) -> None:
        self._marks = marks
        self._timeout = math.ceil(settings.connect_timeout)
        self._insists = settings.source("connect_timeout") != "default"
        self._left = () if settings.pooler in ("session", "transaction") else tuple(OPTIONS)
        self._proven = False
        """A connect with these options has succeeded."""

    def __repr__(self) -> str:
        return f"<Dialing with {self.options!r}>"

    @property
    def options(self) -> str:
        """The options that are sent now; empty where none are."""
        return next(iter(self._left), "")

    def beside(self, conninfo: str, theirs: Mapping[str, Any] = _NONE) -> dict[str, Any]:
        """The keywords that a connect is to be given beside *conninfo* and *theirs*.

        :param theirs: keywords of libpq with which the application overrules *conninfo*. Their
            ``options`` are replaced by ones that contain them.
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
        if self._marks:
            names = (given.get(key) for key in ("application_name", "fallback_application_name"))
            name = next(filter(None, names), OURS)
            if len(name.encode(errors="surrogateescape")) < LONGEST_NAME:
                more["application_name"] = name + RESET_MARK
        return more | self.joined(given.get("options", ""))

    def joined(self, theirs: str) -> dict[str, str]:
        """The options that are sent now, followed by *theirs*; nothing where that cannot be."""
        if not self.options or not _SETTINGS_ONLY.fullmatch(theirs):
            return {}
        return {"options": f"{self.options} {theirs}".rstrip()}  # the last one of a name counts

    def completing(
        self, dsn: Callable[[], Any], theirs: Mapping[str, Any] = _NONE
    ) -> Callable[[], Any]:
        """The callable *dsn*, whose answers are completed by what is given :meth:`beside` them."""

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
        """Note that a connect has succeeded. A *pooled* session is not to be told anything."""
        self._proven = True
        if pooled:
            self._left = ()

    def refused(self, error: BaseException) -> bool:
        """Note that a connect has failed with *error*; whether it may be tried again with less."""
        text = str(error)
        if not self._left or not re.search(_ANSWERED, text):
            return False
        if not re.search(_OF_OPTIONS, text):
            if not self._proven and not re.search(_OF_OTHER_THINGS, text):
                self._left = ()  # it may be the options: leave them out from the next connect on
            return False
        self._left = self._left[1:] if "client_connection_check" in text else ()
        return True
