"""What a stand-in for a server answers: queries with their parameters, and the answers to them."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from psycopg import Error

__all__ = [
    "Answer",
    "Key",
    "Query",
    "Reply",
    "Results",
    "Script",
    "UnexpectedQuery",
    "Unscripted",
    "spelled",
]

Key: TypeAlias = "str | re.Pattern[str]"
"""Which queries an answer is for: those of this text, or those in which the pattern is found."""

Answer: TypeAlias = "Sequence[Any] | int | Error | type[Error] | Callable[..., Any] | None"
"""The rows, each a tuple, a named tuple or a dict by column; the number of rows that a command has
changed; None, for a command that changes none; an exception of psycopg's; or a callable that is
given the query's parameters and returns, or raises, any of these."""

Results: TypeAlias = "Mapping[Any, Answer]"
"""Answers by :data:`Key`."""


class Query(NamedTuple):
    """A query as the server has received it. It equals a plain tuple of its text and parameters."""

    text: str
    """On one line. Each parameter is ``%s``, whichever way the application has named it."""
    params: tuple[Any, ...] = ()
    """One for each parameter that was sent: one named twice in the query is sent once."""


class UnexpectedQuery(AssertionError):
    """The application has sent a query for which nothing was scripted, or a scripted callable has
    failed. Raised where the block ends, since an application may handle the error it was given."""


class Unscripted(Exception):
    """Nothing is scripted for a query."""


class Reply(NamedTuple):
    """An answer, read: rows under their columns' names, or how many rows were changed."""

    names: tuple[str, ...] | None
    """None where there are no rows to be told."""
    rows: Sequence[Sequence[Any]]
    changed: int


_PLACEHOLDER = re.compile(r"%\(\w+\)[sbt]|%[sbt]|\$\d+")


def spelled(text: str) -> str:
    """*text* as :attr:`Query.text` has it."""
    return " ".join(_PLACEHOLDER.sub("%s", text).replace("%%", "%").split()).rstrip("; ")


class Script:
    """The answers, by query. Any thread may call in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: list[tuple[Key, list[Answer]]] = []

    def __repr__(self) -> str:
        return f"<Script of {len(self._answers)} answers>"

    def on(self, key: Key, answers: Iterable[Answer]) -> None:
        """Answer what *key* stands for, from now on: each answer once, and the last one for ever.

        Raises :exc:`TypeError` for what can be no answer.
        """
        if not isinstance(key, (str, re.Pattern)):
            raise TypeError(f"a query is a text or a compiled pattern, and no {type(key).__name__}")
        given = [*answers]
        if not given:
            raise TypeError("an answer is missing: rows, a number, None, an error or a callable")
        for answer in given:
            if not callable(answer):
                replied(answer)
        with self._lock:
            self._answers.insert(0, (spelled(key) if isinstance(key, str) else key, given))

    def answer(self, query: Query) -> Reply | Error:
        """What *query* is answered with. Raises :exc:`Unscripted` where nothing is, and
        whatever a scripted callable raises."""
        answer = self._next(query)
        if callable(answer) and not _is_error(answer):
            from psycopg import Error

            try:
                answer = answer(*query.params)
            except Error as error:
                return error
        return replied(answer)

    def _next(self, query: Query) -> Answer:
        with self._lock:
            for key, answers in self._answers:
                if key == query.text if isinstance(key, str) else key.search(query.text):
                    return answers.pop(0) if len(answers) > 1 else answers[0]
        raise Unscripted(query.text)


def _is_error(answer: object) -> bool:
    from psycopg import Error

    return isinstance(answer, Error) or (isinstance(answer, type) and issubclass(answer, Error))


def replied(answer: Answer) -> Reply | Error:
    """*answer* in the form in which it is sent. Raises :exc:`TypeError` for what is none."""
    if answer is None or isinstance(answer, int):
        return Reply(None, (), int(answer or 0))
    if _is_error(answer):
        error: Error = answer() if isinstance(answer, type) else answer  # type: ignore[assignment]
        return error
    if not isinstance(answer, Sequence) or isinstance(answer, (str, bytes)):
        raise TypeError(
            f"{answer!r} is no answer: it takes a list of rows, a number of rows that were "
            f"changed, None, an exception of psycopg's, or a callable that returns one of these"
        )
    names = _names_of(answer)
    rows = [[*row.values()] if isinstance(row, Mapping) else [*row] for row in answer]
    if any(len(row) != len(names) for row in rows):
        raise TypeError(f"the rows {answer!r} have not all the same number of columns")
    return Reply(names, rows, len(rows))


def _names_of(rows: Sequence[Any]) -> tuple[str, ...]:
    """The columns' names: those of dicts and named tuples, or ``column1`` and so on, which is what
    PostgreSQL calls those of ``VALUES``."""
    if not rows:
        return ("column1",)
    for row in rows:
        if not isinstance(row, (Sequence, Mapping)) or isinstance(row, (str, bytes)):
            raise TypeError(f"{row!r} is no row: it takes a tuple, or a dict by column")
    first = rows[0]
    if isinstance(first, Mapping):
        names = tuple(map(str, first))
        if any(not isinstance(row, Mapping) or tuple(map(str, row)) != names for row in rows):
            raise TypeError(f"the rows {rows!r} have not all the same columns")
        return names
    fields = getattr(first, "_fields", None)
    return fields or tuple(f"column{n}" for n in range(1, len(first) + 1))
