"""The settings: what each takes, its default, where its value came from, and what contradicts what.

Each setting is declared once, as an annotated field of :class:`Settings`: its type, what it takes,
what it means, its default. Everything else here is read off those declarations.

Only the standard library is imported: gunicorn.conf.py reads settings before psycopg may exist.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NamedTuple,
    TypeAlias,
    get_args,
    get_origin,
    get_type_hints,
)

from poolguard.errors import SettingsError

__all__ = [
    "DESCRIPTIONS",
    "MOST_SLOTS",
    "NAMES_OF_OTHERS",
    "RENAMED",
    "VARIABLES",
    "Kind",
    "Percent",
    "Settings",
    "checked_name",
    "other_database",
    "plain_url",
    "warn_of_rename",
]

Auto: TypeAlias = Literal["auto"]
Dsn: TypeAlias = str | Callable[[], str]
Ledger: TypeAlias = Literal["static", "host"]
Metrics: TypeAlias = Literal["on", "all", "off"]
Kind: TypeAlias = Literal["sync", "async"]
Mode: TypeAlias = Literal["auto", "sync", "async"]
OnWarmupFailure: TypeAlias = Literal["serve", "exit"]
Pooler: TypeAlias = Literal["auto", "none", "session", "transaction"]
Spans: TypeAlias = Literal["all", "slow", "off"]

MOST_SLOTS: Final = 16384
"""Connections that the ledger of one host can count."""

_MOST = 10**9
"""Of whole numbers and of seconds alike: files hold no larger number, and no clock needs one."""
_LEAST = 0.001
"""Seconds: what is due again sooner would keep a processor busy, or is over before it began."""
_PREFIX = "POOLGUARD_"
_NOT_SETTINGS = frozenset({"POOLGUARD_PG_BIN"})  # the lab's: where PostgreSQL's binaries are
# Kubernetes gives each container the places of the services around it, and Docker those of what it
# is linked to: for a service called poolguard, or poolguard-web, the names begin as ours do.
_INJECTED = re.compile(
    _PREFIX + r"(?:.+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT|PORT_\d+_(?:TCP|UDP|SCTP)(?:_.+)?"
    r"|ENV_.+)",
    re.DOTALL,
)
_LINKED = re.compile(_PREFIX + r"(?:.+_)?NAME")  # where the value is a path: /web/poolguard
_LONGEST = 100
"""Characters of a name, and of a value that an error shows."""
_NAME = re.compile(rf"(?!.*(?:://|password)).{{1,{_LONGEST}}}")
_LIBPQ_DATABASES = ("PGDATABASE", "PGSERVICE")
_LIBPQ_PLACES = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", *_LIBPQ_DATABASES)
# The schemes by which dj-database-url, django-environ and SQLAlchemy mean PostgreSQL, and others.
_POSTGRESQL = frozenset(
    {"postgresql", "postgres", "postgis", "psql", "pgsql", "timescale", "timescalegis"}
)
_OTHER_DATABASES = frozenset(
    {"mysql", "mysql2", "mysqlgis", "mariadb", "sqlite", "sqlite3", "spatialite", "mssql"}
    | {"oracle", "oraclegis", "cockroach", "cockroachdb", "redshift", "snowflake", "mongodb"}
    | {"mssqlms", "redis", "duckdb", "clickhouse"}
)
# Other pools' names for the same. By spelling alone, min_size would suggest max_size.
NAMES_OF_OTHERS: Final = {
    "conninfo": "dsn",
    "url": "dsn",
    "database_url": "dsn",
    "min_size": "floor",
    "minconn": "floor",
    "pool_size": "floor",
    "maxconn": "max_size",
    "max_overflow": "max_size",
    "timeout": "acquire_timeout",
    "pool_timeout": "acquire_timeout",
    "max_idle": "idle_timeout",
    "max_inactive_connection_lifetime": "idle_timeout",
    "pool_recycle": "max_lifetime",
    "pool_pre_ping": "check_after_idle",
    "num_workers": "max_connecting",
}
_NOT_NEEDED = {  # psycopg_pool's that a guard has no setting for, and why
    "reconnect_timeout": "connecting is tried again for ever",
    "reconnect_failed": "connecting is tried again for ever",
    "open": "a guard is opened by the hooks, the middleware, or its own open()",
    "close_returns": "poolguard.GuardedPool alone takes it",
}


RENAMED: Final = {"refresh_interval": "check_interval"}
"""Names of 0.1, which go on working for one release, each with today's."""


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


# -- the URLs of others


def _scheme_of(text: str) -> str | None:
    """The scheme of a URL in lower case, without the driver behind ``+``; None where none is."""
    found = re.match(r"([a-z][\w.-]*)(\+[\w.-]+)?://|(sqlite)[\w+]*:", text, re.IGNORECASE)
    return (found[1] or found[3]).lower() if found else None


def plain_url(text: str) -> str:
    """*text* as libpq takes it, where it is a PostgreSQL URL of another project's form.

    SQLAlchemy names its driver behind ``+``, and its plugins in the query.
    """
    if _scheme_of(text) not in _POSTGRESQL:
        return text
    if text.startswith(("postgresql://", "postgres://")) and "plugin=" not in text:
        return text
    place, _, query = text.partition("://")[2].partition("?")
    options = "&".join(each for each in query.split("&") if not each.startswith("plugin="))
    return f"postgresql://{place}{'?' if options else ''}{options}"


def other_database(environ: Mapping[str, str] | None = None) -> str | None:
    """What ``DATABASE_URL`` names, where that is no PostgreSQL; else None.

    Only what is known not to be a piece of a password is told by its name.
    """
    environ = os.environ if environ is None else environ
    scheme = _scheme_of(environ.get("DATABASE_URL", "").strip())
    if scheme is None or scheme in _POSTGRESQL:
        return None
    return scheme if scheme in _OTHER_DATABASES else "unknown"


# -- the words of errors

# what looks like part of a conninfo may be one that was put in the wrong place
_SECRETIVE = re.compile(r":/|[=@]|passw", re.IGNORECASE)


def _shown(value: object) -> str:
    """One line that stands for ``value`` in an error or a repr, without anything secret."""
    if isinstance(value, str | Path):
        text = str(value)
        if _SECRETIVE.search(text):
            return "<hidden>"
        return repr(text) if len(text) <= _LONGEST else f"{text[:_LONGEST]!r}…"
    if value is None or isinstance(value, int | float | Percent):
        # Python writes out no number of more than some thousand digits.
        huge = isinstance(value, int) and abs(value) >= 10**40
        return "a number of more than 40 digits" if huge else str(value).removesuffix(".0")
    return f"<{type(value).__name__}>"


def _unknown(kind: str, names: Iterable[str], known: Mapping[str, str]) -> Iterator[str]:
    """One line for each of ``names`` that is not among ``known``: setting -> how it is spelled."""
    for name in names:
        if name not in known.values():
            meant = _meant_by(name.removeprefix(_PREFIX))
            remedy = f"drop it, or choose from {', '.join(known.values())}"
            if meant is not None and meant in known:
                remedy = f"did you mean {known[meant]}?"
            elif meant:
                remedy = f"drop it: {meant}"
            yield f"{kind} {name} is no setting; {remedy}"


def warn_of_rename(former: str, current: str) -> None:
    """A setting is given by its *former* name: warn of it where our caller's code stands."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("poolguard."):
        frame, level = frame.f_back, level + 1
    text = f"{former} is called {current} now; the former name goes with the next release"
    warnings.warn(text, DeprecationWarning, stacklevel=level)


def _by_current_names(given: Mapping[str, Any], spelled: Callable[[str], str]) -> dict[str, Any]:
    """*given* by today's names, where one is *spelled* in a way of its own. Raises
    :exc:`SettingsError` where a setting is given by both of its names."""
    current = dict(given)
    for former, name in RENAMED.items():
        if (value := current.pop(spelled(former), None)) is None:
            continue
        if current.get(spelled(name)) is not None:
            raise SettingsError(
                f"{spelled(former)} and {spelled(name)} are the same setting; drop the first, its "
                f"former name"
            )
        warn_of_rename(spelled(former), spelled(name))
        current[spelled(name)] = value
    return current


def _variable(name: str) -> str:
    return _PREFIX + name.upper()


def _meant_by(name: str) -> str | None:
    """The setting that *name* likely stands for, or why there is none; None where nobody knows.

    It may be another pool's name for the same, or one that was mistyped.
    """
    name = name.lower()
    if name in _KINDS or name in _NOT_NEEDED:
        return _NOT_NEEDED.get(name, name)
    import difflib  # for a user's mistake; each boot would pay for it

    return next(iter(difflib.get_close_matches(NAMES_OF_OTHERS.get(name, name), _KINDS, 1)), None)


def _is_others(variable: str, texts: Mapping[str, str]) -> bool:
    """Whether a variable whose name begins as ours do is not meant as a setting."""
    if _LINKED.fullmatch(variable):
        return texts[variable].startswith("/")
    return variable in _NOT_SETTINGS or _INJECTED.fullmatch(variable) is not None


def checked_name(name: object) -> str:
    """A guard's *name*, fit for logs, spans and tables. Raises :exc:`SettingsError` otherwise."""
    if isinstance(name, str) and name.strip() and _NAME.fullmatch(name) and name.isprintable():
        return str.__str__(name)  # and not what an enumeration makes of it
    raise SettingsError(
        f"keyword name={_shown(name)}: it takes what logs and status call the guard, up to "
        f"{_LONGEST} printable characters and no dsn; correct it, or drop it for the default "
        f"('default')"
    )


def _raise_any(problems: Iterable[str]) -> None:
    if lines := "\n".join(problems):
        raise SettingsError(lines)


# -- what a setting takes


class _Kind(NamedTuple):
    """What a setting takes: in words, and as a parser that raises ``ValueError`` at all else."""

    takes: str
    parse: Callable[[object], Any]

    def __or__(self, other: _Kind) -> _Kind:
        def parse(value: object) -> Any:
            try:
                return self.parse(value)
            except ValueError:
                return other.parse(value)

        return _Kind(f"{self.takes}, or {other.takes}", parse)


def _number(value: object) -> int | float:
    """Read a number, or a plain decimal text; the caller judges its range, inf and nan included."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"[+-]?([0-9]{1,18}(\.[0-9]*)?|\.[0-9]+)", value):
        return float(value) if "." in value else int(value)
    raise ValueError


def _whole(least: int) -> _Kind:
    def parse(value: object) -> int:
        number = _number(value)
        if not isinstance(number, int) or not least <= number <= _MOST:
            raise ValueError
        return int(number)

    return _Kind(f"a whole number from {least} to {_MOST}", parse)


def _seconds(*, zero: bool = False) -> _Kind:
    def parse(value: object) -> float:
        number = _number(value)
        # written so that nan, which compares false with everything, is refused
        if not (_LEAST <= number <= _MOST or (number == 0 and zero)):
            raise ValueError
        return float(number)

    least = f"0 or at least {_LEAST:g}" if zero else f"at least {_LEAST:g}"
    return _Kind(f"seconds, {least} and at most {_MOST}", parse)


def _text(pattern: str, takes: str, make: Callable[[str], object] = str) -> _Kind:
    def parse(value: object) -> object:
        if isinstance(value, str | Path) and re.fullmatch(pattern, str(value)):
            return make(str(value))
        raise ValueError

    return _Kind(takes, parse)


def _one_of(literal: Any, besides: str = "") -> _Kind:
    choices = get_args(literal)
    return _text("|".join(choices), " or ".join(map(repr, choices)) + besides)


def _parse_path(text: str) -> Path:
    os.fsencode(text)  # its UnicodeEncodeError is a ValueError
    return Path(text)


def _parse_percent(value: object) -> Percent:
    if isinstance(value, Percent):
        return value
    if isinstance(value, str) and value.endswith("%"):
        return Percent(_number(value[:-1]))
    raise ValueError


def _parse_dsn(value: object) -> Dsn | None:
    if isinstance(value, str):
        # libpq would take a foreign URL for a keyword and complain with fragments of it
        if re.match(r"[\w+.-]+://", value) and _scheme_of(value) not in _POSTGRESQL:
            raise ValueError
        return plain_url(value) or None
    if callable(value):
        return value  # what it returns shows when it is called
    raise ValueError


_AUTO = _one_of(Auto)
_NO_FLEET = " ('fleet', for many hosts, is not there yet: instances divides the budget among them)"
_PERCENT = _Kind("a percentage above 0% and up to 100%, such as '80%'", _parse_percent)
_DSN = _Kind("a libpq string, a postgresql:// URL or a callable for one", _parse_dsn)
# absolute: a relative one would be another folder in each worker that changes its directory
_FOLDER = _text(r"/[^\0\n]*", "the absolute path of a folder", _parse_path)
# As servers hand it on: with nothing encoded, and not beyond ASCII, where WSGI and ASGI differ.
_URL_PATH = _text(
    r"/[!$&-;=@-Z^_a-z~|]*",
    "a path that begins with '/', in ASCII letters, digits and signs, without query, % or spaces",
)


@dataclass(frozen=True, slots=True)
class Percent:
    """A part of the server's capacity: ``Percent(80)`` is what ``"80%"`` says.

    Raises :exc:`SettingsError` unless ``value`` is above 0 and at most 100.
    """

    value: float

    def __post_init__(self) -> None:
        try:
            number = _number(self.value)
        except ValueError:
            number = math.nan
        if not 0 < number <= 100:
            raise SettingsError(f"Percent({_shown(self.value)}): it takes more than 0, up to 100")
        object.__setattr__(self, "value", float(number))

    def __str__(self) -> str:
        return f"{_shown(self.value)}%"


# -- the settings


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """All settings of one guard, valid and consistent: no other instance can be made.

    Times are seconds. Values may be given in their own type or as the text a variable would hold;
    ``None`` is the default. Two are equal when they have the same effect, wherever their values
    came from. Raises :exc:`SettingsError` with one line for each problem found.
    """

    # fmt: off
    dsn: Annotated[Dsn | None, _DSN,
        "where the database is; none: DATABASE_URL, else libpq's own variables"] = None
    mode: Annotated[Mode, _one_of(Mode),
        "kind of connections; auto: async on asgi and uvicorn workers, else sync"] = "auto"
    budget: Annotated[int | Percent | Auto, _whole(1) | _PERCENT | _AUTO,
        "connections all instances together may hold; auto: capacity less reserve"] = "auto"
    reserve: Annotated[int | Auto, _whole(0) | _AUTO,
        "left to others by budget auto; auto: the greater of 3 and 10 % of capacity"] = "auto"
    instances: Annotated[int, _whole(1),
        "how many ledgers (hosts, containers) share the budget at their peak"] = 1
    workers: Annotated[int | Auto, _whole(1) | _AUTO,
        "worker processes that get a floor; auto: gunicorn's workers, else "
        "WEB_CONCURRENCY, else 1"] = "auto"
    ledger: Annotated[Ledger, _one_of(Ledger, _NO_FLEET),
        "who shares the budget: each worker has a fixed part, or all of one host lend it"] = "host"
    floor: Annotated[int | Auto, _whole(1) | _AUTO,
        "warm connections of a worker; auto: what its class uses at once, within reason"] = "auto"
    max_size: Annotated[int | Auto, _whole(1) | _AUTO,
        "most connections of one worker; auto: what the ledger allows"] = "auto"
    acquire_timeout: Annotated[float, _seconds(), "how long an acquire may take"] = 5.0
    connect_timeout: Annotated[float, _seconds(),
        "how long a login may take, and as long again what follows it"] = 5.0
    max_waiting: Annotated[int, _whole(0),
        "queue length beyond which an acquire is rejected at once; 0: no bound"] = 0
    max_connecting: Annotated[int, _whole(1), "connects under way at once in one worker"] = 32
    warmup_timeout: Annotated[float, _seconds(zero=True),
        "how long a worker waits to be warm before it serves anyway"] = 10.0
    on_warmup_failure: Annotated[OnWarmupFailure, _one_of(OnWarmupFailure),
        "what a worker does that is not warm by then (exit: first generation only)"] = "serve"
    check_interval: Annotated[float, _seconds(),
        "an idle connection is verified at least this often"] = 25.0
    check_after_idle: Annotated[float, _seconds(zero=True),
        "idle longer than this, a connection is verified before it is handed out"] = 30.0
    check_timeout: Annotated[float, _seconds(), "bound of one verification"] = 1.0
    idle_timeout: Annotated[float, _seconds(),
        "a connection above the floor that is idle so long is closed"] = 1800.0
    max_lifetime: Annotated[float, _seconds(),
        "a connection is replaced before it gets this old"] = 3600.0
    leak_after: Annotated[float, _seconds(zero=True),
        "a connection held longer is reported with the stack that took it; 0: off"] = 0.0
    pooler: Annotated[Pooler, _one_of(Pooler),
        "what stands before the server; auto: detected"] = "auto"
    spans: Annotated[Spans, _one_of(Spans),
        "which acquires get a span; slow: those that were not immediate"] = "slow"
    metrics: Annotated[Metrics, _one_of(Metrics),
        "whether metrics are recorded; all: use_time as well"] = "on"
    runtime_dir: Annotated[Path | None, _FOLDER,
        "ledger, doorbells, status files; none: a private folder under the temporary one"] = None
    ready_path: Annotated[str | None, _URL_PATH,
        "path at which the middleware answers readiness itself; none: nowhere"] = None
    # fmt: on

    _sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        problems = []
        for name, kind in _KINDS.items():
            value, default = getattr(self, name), _DEFAULTS[name]
            value = value.strip() if isinstance(value, str) else value
            try:
                value = default if value is None else kind.parse(value)
            except ValueError:
                remedy = f"correct it, or drop it for the default ({_shown(default)})"
                problems.append(f"{self.cite(name)}: it takes {kind.takes}; {remedy}")
            else:
                object.__setattr__(self, name, value)
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
        texts, keywords = _by_current_names(texts, _variable), _by_current_names(keywords, str)
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

        ours = [name for name in texts if name.startswith(_PREFIX) and not _is_others(name, texts)]
        problems += _unknown("keyword", keywords, _NAMES)
        problems += _unknown("variable", ours, VARIABLES)
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
        if not (callable(self.dsn) and callable(other.dsn)):
            return self == other
        return dataclasses.replace(self, dsn=None) == dataclasses.replace(other, dsn=None)

    def replace(self, **changes: Any) -> Settings:
        """A copy with ``changes``, as valid as any; ``None`` goes back to the default.

        Raises :exc:`SettingsError`, also for an unknown name.
        """
        changes = _by_current_names(changes, str)
        _raise_any(_unknown("keyword", changes, _NAMES))
        given = {name: getattr(self, name) for name in _KINDS if self.source(name) != "default"}
        sources = {name: self.source(name) for name in given if name not in changes}
        sources |= {name: f"keyword {name}" for name in changes if changes[name] is not None}
        return type(self)(**given | changes, _sources=sources)

    def source(self, name: str) -> str:
        """``keyword floor``, ``variable POOLGUARD_FLOOR`` or ``default``: where a value is from."""
        if name in self._sources:
            return self._sources[name]
        return "default" if getattr(self, name) == _DEFAULTS[name] else f"keyword {name}"

    def cite(self, name: str) -> str:
        """Source and value, for errors: ``variable POOLGUARD_FLOOR=3``, ``default instances=1``."""
        source, value = self.source(name), self._value_shown(name)
        return f"{source} {name}={value}" if source == "default" else f"{source}={value}"

    def __repr__(self) -> str:
        """Only what differs from the defaults, and never a conninfo."""
        changed = (
            name
            for name, default in _DEFAULTS.items()
            if callable(getattr(self, name)) or getattr(self, name) != default
        )
        return f"Settings({', '.join(f'{name}={self._value_shown(name)}' for name in changed)})"

    def _value_shown(self, name: str) -> str:
        value = getattr(self, name)
        # A callable is anybody's object, which is not asked what it equals or whether it is true.
        is_given = callable(value) or bool(value)
        return f"<{type(value).__name__}>" if name == "dsn" and is_given else _shown(value)

    def _follow(self) -> None:
        """Have a default that would contradict what was set give way to it."""
        for smaller, larger, part, _ in (order for order in _ORDERS if not self._keeps(order)):
            if self.source(smaller) == "default":
                name, value = smaller, getattr(self, larger) * part
            elif self.source(larger) == "default":
                name, value = larger, getattr(self, smaller) / part
            else:
                continue
            object.__setattr__(self, name, value)
            object.__setattr__(self, "_sources", {**self._sources, name: "default"})

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
        if self.ledger == "host" and needed > MOST_SLOTS:
            yield (
                f"{many} × {warm} needs {needed}, and {self.cite('ledger')} counts no more than "
                f"{MOST_SLOTS}; lower workers or floor, or set ledger to 'static'"
            )
        elif isinstance(self.budget, int) and needed > (share := self.budget // self.instances):
            yield (
                f"{self.cite('budget')} ÷ {self.cite('instances')} gives an instance {share}, but "
                f"{many} × {warm} needs {needed}; raise budget to at least "
                f"{needed * self.instances}, or lower instances, workers or floor"
            )


# -- what is read off the declarations

_DECLARED: Final = {
    name: get_args(hint)
    for name, hint in get_type_hints(Settings, include_extras=True).items()
    if get_origin(hint) is Annotated
}
_KINDS: Final[dict[str, _Kind]] = {name: kind for name, (_, kind, _) in _DECLARED.items()}
_NAMES: Final = {name: name for name in _KINDS}
_DEFAULTS: Final = {f.name: f.default for f in dataclasses.fields(Settings) if f.name in _KINDS}

VARIABLES: Final = MappingProxyType({name: _variable(name) for name in _KINDS})
"""The environment variable of each setting, in the order of their declaration."""
DESCRIPTIONS: Final = MappingProxyType({name: doc for name, (_, _, doc) in _DECLARED.items()})
"""What each setting means, in one line."""
