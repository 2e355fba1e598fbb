"""A class whose settings are declared once each: what it takes, what it means, and its default.

To a type checker it is a frozen dataclass. Such a one would be made at each boot, before a connect
can begin, in ten times the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from .kinds import Taken

if TYPE_CHECKING:
    from typing_extensions import Self, dataclass_transform
else:

    def dataclass_transform(**_: object) -> Any:
        return lambda found: found


__all__ = ["Declared", "Setting", "setting"]


class Setting(NamedTuple):
    """One setting, as it is declared."""

    kind: Taken
    doc: str
    default: Any


def setting(kind: Taken, *, default: Any, doc: str) -> Any:
    """Declare one, in the body of a class that is :class:`Declared`."""
    return Setting(kind, doc, default)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(setting,))
class Declared:
    """Has a value for each setting, by keyword or by default; equal to what has the same values."""

    DECLARED: ClassVar[Mapping[str, Setting]]
    """All settings, in the order of their declaration."""

    def __init_subclass__(cls) -> None:
        found = {name: each for name, each in vars(cls).items() if isinstance(each, Setting)}
        cls.DECLARED = MappingProxyType(found)

    if not TYPE_CHECKING:  # a checker knows the constructor better

        def __init__(
            self, *, _sources: Mapping[str, str] = MappingProxyType({}), **given: Any
        ) -> None:
            if strange := given.keys() - self.DECLARED.keys():
                raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(strange))}")
            self._set("_sources", _sources)
            for name, each in self.DECLARED.items():
                self._set(name, given.get(name, each.default))
            self._insist()

    def _insist(self) -> None:
        """Raise where the values cannot be meant, as the last thing of the constructor."""
        raise NotImplementedError

    def _set(self, name: str, value: Any) -> None:
        """While it is made: give a setting its value."""
        self.__dict__[name] = value

    def _values(self) -> Iterator[Any]:
        return (self.__dict__[name] for name in self.DECLARED)

    def _with(self, **values: Any) -> Self:
        """A copy that differs in these values, which are not looked at."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, **values)
        return copy

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed: make another one")

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return tuple(self._values()) == tuple(other._values())

    def __hash__(self) -> int:
        return hash(tuple(self._values()))
