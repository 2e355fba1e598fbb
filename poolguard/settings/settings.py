"""``Settings``: all settings of one guard, each declared once, valid and consistent.

A setting is an annotated field: its type, what it takes, what it means, its default. Everything
else here is read off those declarations.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from ..errors import SettingsError
from .declared import Declared, setting
from .kinds import (
    ANY_PERCENT,
    AUTO,
    DSN,
    FOLDER,
    HISTORY_TABLE,
    LABEL,
    URL_PATH,
    Auto,
    Dsn,
    Percent,
    one_of,
    seconds,
    whole,
)
from .names import PREFIX, by_current_names, is_others, unknown, variable_of
from .shown import shown
from .urls import other_database

__all__ = ["DESCRIPTIONS", "MOST_SLOTS", "VARIABLES", "Settings", "least_of_fleet"]

Ledger: TypeAlias = Literal["static", "host", "fleet"]
Metrics: TypeAlias = Literal["on", "all", "off"]
Mode: TypeAlias = Literal["auto", "sync", "async"]
OnWarmupFailure: TypeAlias = Literal["serve", "exit"]
Pooler: TypeAlias = Literal["auto", "none", "session", "transaction"]
Spans: TypeAlias = Literal["all", "slow", "off"]
Wrap: TypeAlias = Literal["on", "off"]
History: TypeAlias = Literal["on", "off", "database"]

MOST_SLOTS: Final = 16384
"""Connections that a ledger of one host, or of one fleet, can count."""
_LIBPQ_DATABASES = ("PGDATABASE", "PGSERVICE")
_LIBPQ_PLACES = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", *_LIBPQ_DATABASES)


class _Order(NamedTuple):
    """Two settings, of which one must not be above the other."""

    smaller: str
    larger: str
    part: float
    """Of the larger, where the smaller one's default has to follow it. 1: they may be equal."""
    why: str

    def allows(self, low: Any, high: Any) -> bool:
        return "auto" in (low, high) or low < high or (low == high and self.part == 1)


_ORDERS = (
    _Order("floor", "max_size", 1, "a worker cannot keep more connections warm than it may hold"),
    _Order("check_interval", "max_lifetime", 0.5, "connections would be replaced unverified"),
    _Order("check_timeout", "acquire_timeout", 1, "a check could outlast the acquire it is for"),
)


def least_of_fleet(hosts: int, needed: int) -> int:
    """The smallest budget of a fleet whose hosts need so many connections each: every host has a
    control session, and one slot is kept free for the next host that joins."""
    return hosts * (needed + 1) + 1


def _raise_any(problems: Iterable[str]) -> None:
    if lines := "\n".join(problems):
        raise SettingsError(lines)


class Settings(Declared):
    """All settings of one guard, valid and consistent: no other instance can be made.

    Times are seconds. Values may be given in their own type or as the text a variable would hold;
    ``None`` is the default. Two are equal when they have the same effect, wherever their values
    came from. Raises :exc:`SettingsError` with one line for each problem found.
    """

    # fmt: off
    dsn: Dsn | None = setting(DSN, default=None,
        doc="where the database is; none: DATABASE_URL, else libpq's own variables")
    mode: Mode = setting(one_of(Mode), default="auto",
        doc="kind of connections; auto: async on asgi and uvicorn workers, else sync")
    budget: int | Percent | Auto = setting(whole(1) | ANY_PERCENT | AUTO, default="auto",
        doc="connections all instances together may hold; auto: capacity less reserve")
    reserve: int | Auto = setting(whole(0) | AUTO, default="auto",
        doc="left to others by budget auto; auto: the greater of 3 and 10 % of capacity")
    instances: int = setting(whole(1), default=1,
        doc="how many ledgers (hosts, containers) share the budget at their peak")
    workers: int | Auto = setting(whole(1) | AUTO, default="auto",
        doc="worker processes that get a floor; auto: gunicorn's workers, else "
        "WEB_CONCURRENCY, else 1")
    ledger: Ledger = setting(one_of(Ledger), default="host",
        doc="who shares the budget: each worker has a part of it (static), or those of one host "
        "lend it to each other, or those of all hosts do (fleet)")
    ledger_dsn: Dsn | None = setting(DSN, default=None,
        doc="the database in which the hosts of a fleet share the budget; none: the guard's own")
    ledger_label: str | None = setting(LABEL, default=None,
        doc="the fleet's name there; none: role@database of the hosts' sessions there")
    floor: int | Auto = setting(whole(1) | AUTO, default="auto",
        doc="warm connections of a worker; auto: what its class uses at once, within reason")
    max_size: int | Auto = setting(whole(1) | AUTO, default="auto",
        doc="most connections of one worker; auto: what the ledger allows")
    acquire_timeout: float = setting(seconds(), default=5.0, doc="how long an acquire may take")
    connect_timeout: float = setting(seconds(), default=5.0,
        doc="how long a login may take, and as long again what follows it")
    max_waiting: int = setting(whole(0), default=0,
        doc="queue length beyond which an acquire is rejected at once; 0: no bound")
    max_connecting: int = setting(whole(1), default=32,
        doc="connects under way at once in one worker")
    warmup_timeout: float = setting(seconds(zero=True), default=10.0,
        doc="how long a worker waits to be warm before it serves anyway")
    on_warmup_failure: OnWarmupFailure = setting(one_of(OnWarmupFailure), default="serve",
        doc="what a worker does that is not warm by then (exit: first generation only)")
    check_interval: float = setting(seconds(), default=25.0,
        doc="an idle connection is verified at least this often")
    check_after_idle: float = setting(seconds(zero=True), default=30.0,
        doc="idle longer than this, a connection is verified before it is handed out")
    check_timeout: float = setting(seconds(), default=1.0, doc="bound of one verification")
    idle_timeout: float = setting(seconds(), default=1800.0,
        doc="a connection above the floor that is idle so long is closed")
    max_lifetime: float = setting(seconds(), default=3600.0,
        doc="a connection is replaced before it gets this old")
    leak_after: float = setting(seconds(zero=True), default=0.0,
        doc="a connection held longer is reported with the stack that took it; 0: off")
    pooler: Pooler = setting(one_of(Pooler), default="auto",
        doc="what stands before the server; auto: detected")
    wrap: Wrap = setting(one_of(Wrap), default="on",
        doc="whether gunicorn's hooks put the middleware around an application that has none")
    spans: Spans = setting(one_of(Spans), default="slow",
        doc="which acquires get a span; slow: those that were not immediate")
    metrics: Metrics = setting(one_of(Metrics), default="on",
        doc="whether metrics are recorded; all: use_time as well")
    history: str = setting(one_of(History) | HISTORY_TABLE, default="on",
        doc="whether it is learned from earlier days what is to be kept warm; database: with all "
        "hosts, in a table")
    runtime_dir: Path | None = setting(FOLDER, default=None,
        doc="ledger, doorbells, status files; none: a private folder under the temporary one")
    ready_path: str | None = setting(URL_PATH, default=None,
        doc="path at which the middleware answers readiness itself; none: nowhere")
    # fmt: on

    _sources: Mapping[str, str] = MappingProxyType({})
    """Where values came from that were not given by keyword."""

    def _insist(self) -> None:
        problems = []
        for name, (kind, _, default) in self.DECLARED.items():
            value = getattr(self, name)
            value = value.strip() if isinstance(value, str) else value
            try:
                value = default if value is None or value is default else kind.parse(value)
            except ValueError:
                remedy = f"correct it, or drop it for the default ({shown(default)})"
                problems.append(f"{self.cite(name)}: it takes {kind.takes}; {remedy}")
            else:
                self._set(name, value)
        if not problems:
            self._follow()
        # outside of `except`, or the traceback would chain a ValueError that says nothing
        _raise_any(problems or self._contradictions())

    @classmethod
    def build(cls, *, environ: Mapping[str, str] | None = None, **keywords: Any) -> Settings:
        """Settings from ``keywords``, then ``POOLGUARD_*`` variables, then ``DATABASE_URL``.

        A keyword of ``None`` and an empty variable count as not given. With no dsn at all, ``dsn``
        is ``None``: an empty conninfo, so that libpq reads its own variables. A ``DATABASE_URL`` of
        another kind of database is passed over where libpq's variables say more, and refused
        elsewhere. ``environ`` is ``os.environ`` unless given. Raises :exc:`SettingsError`, also
        for an unknown name.
        """
        environ = os.environ if environ is None else environ
        texts = {variable: text.strip() for variable, text in environ.items() if text.strip()}
        texts, keywords = by_current_names(texts, variable_of), by_current_names(keywords, str)
        given: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for name, variable in VARIABLES.items():
            if keywords.get(name) is not None:
                given[name], sources[name] = keywords[name], f"keyword {name}"
            elif variable in texts:
                given[name], sources[name] = texts[variable], f"variable {variable}"
        problems: list[str] = []
        if "dsn" not in given and "DATABASE_URL" in texts:
            if (other := other_database(texts)) is None:
                given["dsn"], sources["dsn"] = texts["DATABASE_URL"], "variable DATABASE_URL"
            elif not cls.has_dsn(texts):
                problems.append(
                    f"variable DATABASE_URL names another kind of database ({other}), and nothing "
                    f"else says where PostgreSQL is; set {VARIABLES['dsn']} or give a dsn"
                )

        ours = set(VARIABLES.values())
        strange = [
            name
            for name in texts
            if name.startswith(PREFIX) and name not in ours and not is_others(name, texts)
        ]
        problems += unknown("keyword", keywords, _NAMES)
        problems += unknown("variable", strange, VARIABLES)
        try:
            settings = cls(**given, _sources=sources)
        except SettingsError as error:
            problems.append(str(error))
        _raise_any(problems)
        return settings

    @staticmethod
    def has_dsn(environ: Mapping[str, str] | None = None, *, beside: bool = False) -> bool:
        """Whether the environment says where a PostgreSQL is, in poolguard's words or libpq's.

        *beside* guards that say it themselves, whose dsn libpq's variables may only complete, the
        environment has to name a database.
        """
        environ = os.environ if environ is None else environ
        places = [VARIABLES["dsn"], *(_LIBPQ_DATABASES if beside else _LIBPQ_PLACES)]
        if other_database(environ) is None:
            places.append("DATABASE_URL")
        return any(environ.get(place, "").strip() for place in places)

    def matches(self, other: Settings) -> bool:
        """Equal, but for a callable dsn: a file that is run again makes a new one of the same."""
        called: dict[str, Any] = {
            name: None
            for name in ("dsn", "ledger_dsn")
            if callable(getattr(self, name)) and callable(getattr(other, name))
        }
        return self._with(**called) == other._with(**called)

    def replace(self, **changes: Any) -> Settings:
        """A copy with ``changes``, as valid as any; ``None`` goes back to the default.

        Raises :exc:`SettingsError`, also for an unknown name.
        """
        changes = by_current_names(changes, str)
        _raise_any(unknown("keyword", changes, _NAMES))
        given = {name: getattr(self, name) for name in _NAMES if self.source(name) != "default"}
        sources = {name: self.source(name) for name in given if name not in changes}
        sources |= {name: f"keyword {name}" for name in changes if changes[name] is not None}
        return type(self)(**given | changes, _sources=sources)

    def source(self, name: str) -> str:
        """``keyword floor``, ``variable POOLGUARD_FLOOR`` or ``default``: where a value is from."""
        if name in self._sources:
            return self._sources[name]
        given = getattr(self, name) != self.DECLARED[name].default
        return f"keyword {name}" if given else "default"

    def cite(self, name: str) -> str:
        """Source and value, for errors: ``variable POOLGUARD_FLOOR=3``, ``default instances=1``."""
        source, value = self.source(name), self._value_shown(name)
        return f"{source} {name}={value}" if source == "default" else f"{source}={value}"

    def __repr__(self) -> str:
        """Only what differs from the defaults, and never a conninfo."""
        changed = (
            name
            for name, declared in self.DECLARED.items()
            if callable(getattr(self, name)) or getattr(self, name) != declared.default
        )
        return f"Settings({', '.join(f'{name}={self._value_shown(name)}' for name in changed)})"

    def _value_shown(self, name: str) -> str:
        value = getattr(self, name)
        # A callable is anybody's object, which is not asked what it equals or whether it is true.
        is_given = callable(value) or bool(value)
        is_dsn = name in ("dsn", "ledger_dsn")
        return f"<{type(value).__name__}>" if is_dsn and is_given else shown(value)

    def _follow(self) -> None:
        """Have a default that would contradict what was set give way to it."""
        for smaller, larger, part, _ in (order for order in _ORDERS if not self._keeps(order)):
            if self.source(smaller) == "default":
                name, value = smaller, getattr(self, larger) * part
            elif self.source(larger) == "default":
                name, value = larger, getattr(self, smaller) / part
            else:
                continue
            self._set(name, value)
            self._set("_sources", {**self._sources, name: "default"})

    def _keeps(self, order: _Order) -> bool:
        return order.allows(getattr(self, order.smaller), getattr(self, order.larger))

    def _contradictions(self) -> Iterator[str]:
        """One line for each set of valid values that cannot all be meant."""
        cite = self.cite
        for order in _ORDERS:
            if not self._keeps(order):
                smaller, larger, part, why = order
                yield (
                    f"{cite(smaller)} must be {'at most' if part == 1 else 'below'} {cite(larger)}:"
                    f" {why}; lower {smaller} or raise {larger}"
                )
        if self.ledger == "fleet" and self.pooler == "transaction" and self.ledger_dsn is None:
            yield (
                f"{cite('ledger')} cannot use {cite('pooler')}, which shares its server's sessions "
                "among clients: a fleet's locks belong to one session. Set ledger_dsn to the "
                "database past the pooler, or ledger to 'host' and leave it to the pooler to bound "
                "what all hosts have together"
            )
        for name in ("ledger_dsn", "ledger_label"):
            if getattr(self, name) is not None and self.ledger != "fleet":
                yield (
                    f"{cite(name)} means nothing beside {cite('ledger')}: it is for hosts that "
                    "share a budget; set ledger to 'fleet', or drop it"
                )
        if self.reserve != "auto" and self.budget != "auto":
            yield (
                f"{cite('reserve')} means nothing beside {cite('budget')}: it is what "
                "budget='auto' leaves to others; drop one of the two"
            )
        yield from self._shortfall()

    def _shortfall(self) -> Iterator[str]:
        """What an instance needs and cannot have, whatever capacity is."""
        needed = 1 if self.workers == "auto" else self.workers
        needed *= 1 if self.floor == "auto" else self.floor
        many = "at least 1 worker" if self.workers == "auto" else self.cite("workers")
        warm = "at least 1 warm connection" if self.floor == "auto" else self.cite("floor")
        if self.ledger != "static" and needed > MOST_SLOTS:
            yield (
                f"{many} × {warm} needs {needed}, and {self.cite('ledger')} counts no more than "
                f"{MOST_SLOTS}; lower workers or floor, or set ledger to 'static'"
            )
        elif self.ledger == "fleet" and isinstance(self.budget, int):
            least = least_of_fleet(self.instances, needed)
            if self.budget > MOST_SLOTS:
                yield (
                    f"{self.cite('budget')} is more than the {MOST_SLOTS} that "
                    f"{self.cite('ledger')} counts; lower budget, or give each of several fleets "
                    f"a part of it and a ledger_label of its own"
                )
            elif self.budget < least:
                yield (
                    f"{self.cite('budget')} is too small for {self.cite('ledger')}: "
                    f"{self.cite('instances')} × ({many} × {warm}, and 1 control session), and 1 "
                    f"kept free for a host that joins, make {least}; raise budget to at least "
                    f"that, or lower instances, workers or floor"
                )
        elif isinstance(self.budget, int) and needed > (share := self.budget // self.instances):
            yield (
                f"{self.cite('budget')} ÷ {self.cite('instances')} gives an instance {share}, but "
                f"{many} × {warm} needs {needed}; raise budget to at least "
                f"{needed * self.instances}, or lower instances, workers or floor"
            )


# -- what is read off the declarations

_NAMES: Final = {name: name for name in Settings.DECLARED}

VARIABLES: Final = MappingProxyType({name: variable_of(name) for name in _NAMES})
"""The environment variable of each setting, in the order of their declaration."""
DESCRIPTIONS: Final = MappingProxyType({n: each.doc for n, each in Settings.DECLARED.items()})
"""What each setting means, in one line."""
