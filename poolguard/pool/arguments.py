"""What a guard hands to its pool beside the settings: callbacks, connect arguments, a class.

They are the application's objects, and may hold a password: only their names are ever shown.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction
from typing import Any, ClassVar, get_origin

from ..errors import SettingsError
from .events import Listener

__all__ = ["PoolArguments"]

Callback = Callable[[Any], Any]
_CALLBACKS = ("configure", "reset", "check")
_CLASSES = {"sync": "Connection", "async": "AsyncConnection"}
"""What psycopg calls the connections of each kind of guard."""


class PoolArguments:
    """The arguments, with psycopg_pool's names and meanings, that were given; None for the others.

    Raises :exc:`~poolguard.errors.SettingsError`, with a line for each that is of no use. psycopg
    is not imported: guards are made before gevent has patched the process.
    """

    NAMES: ClassVar = (*_CALLBACKS, "kwargs", "connection_class", "listener")

    def __init__(
        self,
        *,
        configure: Callback | None = None,
        reset: Callback | None = None,
        check: Callback | None = None,
        kwargs: Mapping[str, Any] | Callable[[], Any] | None = None,
        connection_class: type[Any] | None = None,
        listener: Listener | None = None,
    ) -> None:
        self.configure = configure
        self.reset = reset
        self.check = check
        self.kwargs = kwargs
        # Generic[…] of a class is how psycopg's documentation types a pool; it is the class.
        self.connection_class = get_origin(connection_class) or connection_class
        self.listener = listener
        """Told of the pool's events beside poolguard's own: :mod:`poolguard.testing` has one."""
        problems = [
            f"keyword {name}=<{type(value).__name__}>: it takes a callable that is given a "
            f"connection; correct it, or drop it"
            for name in _CALLBACKS
            if (value := getattr(self, name)) is not None and not callable(value)
        ]
        if isinstance(kwargs, Mapping) and all(isinstance(name, str) for name in kwargs):
            # A copy: a guard does not change with the application's own dict.
            self.kwargs = dict(kwargs) or None
        elif kwargs is not None and not callable(kwargs):
            problems.append(
                f"keyword kwargs=<{type(kwargs).__name__}>: it takes a dict of keyword "
                f"arguments for psycopg's connect(), or a callable that returns one; correct it, "
                f"or drop it"
            )
        if self.connection_class is not None and not any(map(self._is_of, _CLASSES)):
            problems.append(self._of_no_use("Connection or psycopg.AsyncConnection"))
        if problems:
            raise SettingsError("\n".join(problems))

    def __repr__(self) -> str:
        return f"<PoolArguments {', '.join(self._unlike(PoolArguments()))}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PoolArguments) and not self._unlike(other)

    __hash__ = None  # type: ignore[assignment]

    @property
    def names_place(self) -> bool:
        """They say where the database is."""
        given = self.kwargs if isinstance(self.kwargs, Mapping) else {}
        return any(given.get(name) for name in ("host", "hostaddr", "service", "dbname"))

    def suit(self, kind: str) -> None:
        """Insist that they are of use to a guard that is ``sync`` or ``async``.

        Raises :exc:`~poolguard.errors.SettingsError`.
        """
        problems = []
        if self.connection_class is not None and not self._is_of(kind):
            problems.append(self._of_no_use(f"{_CLASSES[kind]}, since the guard is {kind}"))
        if kind == "sync":
            problems += [
                f"keyword {name}: it is a coroutine function, which the guard cannot await, since "
                f"it is sync; give it a plain function, or set mode='async'"
                for name in (*_CALLBACKS, "kwargs")
                if _is_async(getattr(self, name))
            ]
        if problems:
            raise SettingsError("\n".join(problems))

    def _is_of(self, kind: str) -> bool:
        psycopg = sys.modules.get("psycopg")  # until it is imported there is no subclass
        base = getattr(psycopg, _CLASSES[kind], None)
        given = self.connection_class
        return isinstance(given, type) and base is not None and issubclass(given, base)

    def _of_no_use(self, base: str) -> str:
        name = getattr(self.connection_class, "__qualname__", type(self.connection_class).__name__)
        return (
            f"keyword connection_class=<{name}>: it takes a subclass of psycopg.{base}; correct "
            f"it, or drop it"
        )

    def replace(self, **changes: Any) -> PoolArguments:
        """A copy with *changes*."""
        return PoolArguments(**{name: getattr(self, name) for name in self.NAMES} | changes)

    def unlike(self, other: PoolArguments) -> list[str]:
        """The names of those that are not what *other* has.

        A file that is run again makes new functions and classes of the same names: those are alike.
        """
        return [
            name
            for name in self._unlike(other)
            if not _alike(getattr(self, name), getattr(other, name))
        ]

    def _unlike(self, other: PoolArguments) -> list[str]:
        return [name for name in self.NAMES if getattr(self, name) != getattr(other, name)]


def _is_async(value: object) -> bool:
    return iscoroutinefunction(value) or (
        callable(value) and iscoroutinefunction(type(value).__call__)  # an object's own
    )


def _alike(one: object, other: object) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if callable(one) and callable(other):
        return _name_of(one) == _name_of(other)
    return bool(one == other)


def _name_of(value: object) -> list[object]:
    kind = type(value)
    return [getattr(value, n, getattr(kind, n)) for n in ("__module__", "__qualname__")]
