"""What a guard's pool connects with: the application's string and keywords, completed.

Both may be callables, asked at each connect, whose answers are checked as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import isawaitable
from typing import Any

from ..budget.dialing import OURS, Dialing
from ..errors import SettingsError
from ..pool.arguments import PoolArguments
from ..settings import Kind, Settings
from ..util.conninfo import checked, of_libpq, parse, parse_keywords
from ..util.conninfo_location import insist_same_place
from .control import sits_in_slots

__all__ = ["Connecting"]


class Connecting:
    """The connect arguments of one pool, as long as it is open.

    :param given: what the application gives the pool beside the settings.
    :param on_change: called when the keywords have changed, since the server refused some.
    """

    def __init__(
        self,
        mode: Kind,
        settings: Settings,
        given: PoolArguments,
        on_change: Callable[[], None],
    ) -> None:
        self._mode = mode
        self._settings = settings
        self._given = given
        self._on_change = on_change
        self._dialing = Dialing(settings, marks=sits_in_slots(settings, given.kwargs))

    def __repr__(self) -> str:
        return f"<Connecting {self._mode} {self._dialing!r}>"

    def adopt(self, given: PoolArguments) -> None:
        """Connect by *given* from now on."""
        self._given = given

    def check(self) -> None:
        """Refuse what cannot be parsed. Raises :exc:`~poolguard.errors.SettingsError`, which shows
        nothing of it."""
        if isinstance(self._settings.dsn, str):
            parse(self._settings.dsn, self._settings.source("dsn"))
        if isinstance(self._given.kwargs, Mapping):
            parse_keywords(self._given.kwargs, self.connection_class())

    def connection_class(self) -> type[Any]:
        """The class of the connections."""
        import psycopg

        of_kind = psycopg.Connection if self._mode == "sync" else psycopg.AsyncConnection
        return self._given.connection_class or of_kind

    def conninfo(self) -> str | Callable[[], Any]:
        """The connection string, or what returns it."""
        dsn = self._settings.dsn
        if not callable(dsn):
            return dsn or ""
        theirs = self._given.kwargs
        return self._dialing.completing(
            checked(dsn, self._settings.source("dsn")),
            of_libpq(theirs) if isinstance(theirs, Mapping) else {},
        )

    def keywords(self) -> dict[str, Any] | Callable[[], Any]:
        """The keywords of each connect: the application's, and what they say nothing of."""
        theirs = self._given.kwargs
        if not callable(theirs):
            return self._joined(theirs or {})
        ask = theirs

        def kwargs() -> Any:
            answer = ask()
            if self._mode == "async" and isawaitable(answer):
                return self._later(answer)
            return self._answered(answer)

        return kwargs

    async def _later(self, answer: Any) -> dict[str, Any]:
        return self._answered(await answer)

    def _answered(self, answer: Any) -> dict[str, Any]:
        if not isinstance(answer, Mapping) or not all(isinstance(name, str) for name in answer):
            raise SettingsError(
                f"keyword kwargs: the callable has returned <{type(answer).__name__}>, where a "
                f"dict of keyword arguments for psycopg's connect() belongs"
            )
        parse_keywords(answer, self.connection_class())
        insist_same_place(self._settings.dsn, answer)
        return self._joined(answer)

    def _joined(self, theirs: Mapping[str, Any]) -> dict[str, Any]:
        dsn, libpqs = self._settings.dsn, of_libpq(theirs)
        if callable(dsn):  # its answers are complete but for what overrules them
            ours = self._dialing.joined(str(libpqs["options"])) if "options" in libpqs else {}
        else:
            ours = self._dialing.beside(dsn or "", libpqs)
        return {"fallback_application_name": OURS, **theirs, **ours}

    # -- what the server takes -----------------------------------------------------------------

    @property
    def sends_options(self) -> bool:
        """Options of ours go with each connect, and are to be set again after a ``RESET ALL``."""
        return bool(self._dialing.options)

    def refused(self, error: BaseException) -> bool:
        """Whether a connect that has failed with *error* may be tried again at once, with less."""
        before = self._dialing.options
        again = self._dialing.refused(error)
        self._note(before)
        return again

    def succeeded(self, *, pooled: bool) -> None:
        """A connect has succeeded, with a pooler where it is *pooled*."""
        before = self._dialing.options
        self._dialing.succeeded(pooled=pooled)
        self._note(before)

    def _note(self, before: str) -> None:
        if before != self._dialing.options:
            self._on_change()
