"""What a guard hands to its pool beside the settings: callbacks, connect arguments, a class."""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import pytest
from psycopg import AsyncConnection, Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

import poolguard
from poolguard import Guard, PoolguardError, SettingsError
from poolguard.budget.dialing import Dialing
from poolguard.budget.host.ledger import HostLedger
from poolguard.budget.terms import Scope
from poolguard.lab.postgres import PrivatePostgres
from poolguard.pool.arguments import PoolArguments
from poolguard.settings import Settings
from poolguard.util.conninfo import parse_keywords
from poolguard.util.conninfo_location import insist_same_place, located, same_database

from ..budget.test_dialing import refusing
from ..support import until
from .test_async import eventually
from .test_guard import SMALL

SAID = "SELECT current_setting('{}') AS said"
OPTIONS = {"options": "-c search_path=zoo"}
SECRET = "tops3cret"


def answer(
    guard: Guard,
    query: str = "SELECT 1 AS said",
    *,
    times: int = 1,
    then: Callable[[], object] = lambda: True,
) -> Any:
    """What the last of so many transactions is answered; *then* comes true before the guard closes,
    since a connection is reset after it was returned."""

    async def run() -> Any:
        async with guard:
            for _ in range(times):
                async with guard.aconnection() as conn:
                    row = await (await conn.execute(query)).fetchone()
            await eventually(then)
        return row

    if guard.mode == "async":
        return asyncio.run(run())
    with guard:
        for _ in range(times):
            with guard.connection() as conn:
                row = conn.execute(query).fetchone()
        until(then)
    return row


def scope_of(guard: Guard) -> Scope:
    """Whose limits bind its connections, as its ledger has it."""
    ledger = guard._runtime and guard._runtime.ledger
    assert isinstance(ledger, HostLedger)
    return ledger.scope


def configure(conn: Connection[Any]) -> None:
    conn.execute("SET application_name = 'configured'")
    conn.commit()


async def aconfigure(conn: AsyncConnection[Any]) -> None:
    await conn.execute("SET application_name = 'configured'")
    await conn.commit()


def of(mode: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    """*plain*, as a coroutine function where the guard is async."""
    if mode == "sync":
        return plain

    @functools.wraps(plain)
    async def later(*args: Any) -> Any:
        return plain(*args)

    return later


# -- callbacks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_callbacks_and_arguments_reach_the_pool(dsn: str, mode: str) -> None:
    """The capacity is asked meanwhile, whatever the rows of the application are."""
    called = []
    guard = Guard(
        dsn,
        mode=mode,
        floor=2,
        configure=configure if mode == "sync" else aconfigure,
        reset=of(mode, lambda _: called.append("reset")),
        check=of(mode, lambda _: called.append("check")),
        kwargs={"row_factory": dict_row, "autocommit": True},
    )
    query = SAID.format("application_name")
    assert answer(guard, query, then=lambda: "reset" in called) == {"said": "configured"}
    assert called == ["check", "reset"]
    assert guard.plan is not None
    assert guard.plan.capacity is not None


def test_an_async_guard_takes_plain_functions_too(dsn: str) -> None:
    called: list[object] = []

    def shape(conn: AsyncConnection[Any]) -> None:
        conn.row_factory = dict_row

    guard = Guard(dsn, mode="async", configure=shape, reset=called.append, **SMALL)
    assert answer(guard, then=lambda: called) == {"said": 1}
    guard = Guard(dsn, mode="async", configure=lambda conn: aconfigure(conn), **SMALL)  # noqa: PLW0108
    assert answer(guard, SAID.format("application_name")) == ("configured",)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_transaction_that_configure_leaves_open_is_said(dsn: str, mode: str) -> None:
    """Until there is none."""
    leaves = [True]

    def begin(conn: Connection[Any]) -> None:
        conn.execute("SELECT 1")
        if not leaves[0]:
            conn.commit()

    async def abegin(conn: AsyncConnection[Any]) -> None:
        await conn.execute("SELECT 1")
        if not leaves[0]:
            await conn.commit()

    async def arun() -> None:
        await guard.aopen()
        while "configure has left" not in str(guard.status()["last_error"]):
            await asyncio.sleep(0.01)
        leaves[0] = False
        assert await guard.aopen(10)
        await guard.aclose()

    guard = Guard(dsn, mode=mode, configure=begin if mode == "sync" else abegin, **SMALL)
    if mode == "async":
        asyncio.run(asyncio.wait_for(arun(), 20))
        return
    guard.open()
    until(lambda: "configure has left" in str(guard.status()["last_error"]))
    leaves[0] = False
    assert guard.open(10)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_reset_that_raises_costs_the_connection_alone(dsn: str, mode: str) -> None:
    def refuse(conn: object) -> None:
        raise ValueError

    guard = Guard(dsn, mode=mode, reset=of(mode, refuse), **SMALL)
    assert answer(guard, times=4, then=lambda: guard.status()["closed"].get("discarded") == 4)


# -- connect arguments -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("dsn_is", ["text", "callable"])
@pytest.mark.parametrize("kwargs_is", ["a dict", "callable"])
def test_options_join_those_that_are_sent(dsn: str, mode: str, dsn_is: str, kwargs_is: str) -> None:
    """What a session is told outlives a reset, beside what the application has it told."""
    guard = Guard(
        dsn if dsn_is == "text" else of(mode, lambda: dsn),
        mode=mode,
        configure=of(mode, lambda conn: None),
        kwargs=OPTIONS if kwargs_is == "a dict" else of(mode, lambda: OPTIONS),
        **SMALL,
    )
    query = (
        "SELECT array_agg(reset_val ORDER BY name) FROM pg_settings "
        "WHERE name IN ('search_path', 'tcp_keepalives_idle')"
    )
    assert answer(guard, query) == (["zoo", "30"],)


@pytest.mark.parametrize("kwargs_is", ["a dict", "callable"])
def test_they_stay_where_ours_are_refused(
    postgres: PrivatePostgres, kwargs_is: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No connect counts as failed."""
    theirs = {"row_factory": dict_row, "gssencmode": "disable"}
    with refusing(postgres.port, "unsupported startup parameter: options") as port:
        guard = Guard(
            postgres.conninfo(port=port, sslmode="disable"),
            mode="sync",
            kwargs=theirs if kwargs_is == "a dict" else lambda: theirs,
            **SMALL,
        )
        assert answer(guard) == {"said": 1}
    assert caplog.messages == []


def test_keywords_overrule_what_is_filled_in() -> None:
    """Also what a setting says; what is None is not said."""
    dialing = Dialing(Settings.build(connect_timeout=3))
    given = dialing.beside(
        "connect_timeout=7 options='-c a.b=c'",
        {"connect_timeout": 9, "keepalives_idle": 1, **OPTIONS},
    )
    assert given == {
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "options": f"{dialing.options} -c search_path=zoo",
    }
    assert dialing.beside("")["connect_timeout"] == 3
    assert "options" not in dialing.beside("", {"options": "-v"})


def test_a_callable_is_asked_at_each_connect(dsn: str) -> None:
    """It may be wrong for a while; what is wrong is said, and shows nothing of it."""

    class Later:
        """Nothing that a sync guard could wait for."""

        def __await__(self) -> Any:
            raise AssertionError

    answers: list[Any] = [Later(), {"host": SECRET}]
    wrong = ["returned <Later>", "another host"]
    said: list[str] = []

    def ask() -> Any:
        said.append(str(guard.status()["last_error"]))
        return answers.pop(0) if answers else {"application_name": "asked"}

    guard = Guard(dsn, mode="sync", budget=1, floor=1, kwargs=ask)
    with guard, guard.connection(20) as conn:
        row = conn.execute(SAID.format("application_name")).fetchone()
    assert row == ("asked",)
    assert all(words in line for words, line in zip(wrong, said[1:], strict=True)), said
    assert SECRET not in str(said)


@pytest.mark.parametrize(
    ("dsn", "answer", "taken"),
    [
        ("host=one user=me", {"password": "x", "host": "ONE", "port": 5432, "dbname": "me"}, True),
        ("host=one dbname=app", {"user": "rotating"}, True),
        ("host=one", {"user": "rotating"}, False),  # the database would be called so, too
        ("host=one", {"dbname": "other"}, False),
        ("host=one", {"hostaddr": "10.0.0.1"}, False),
        ("host=one service=a", {"service": "b"}, False),
        (lambda: "host=one", {"host": "two", "dbname": "other"}, True),
        (lambda: "host=one", {"service": "a"}, False),
    ],
)
def test_a_callable_does_not_lead_elsewhere(
    dsn: Any, answer: dict[str, Any], taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger is chosen before it is asked. That of a callable dsn goes by the guard's name."""
    monkeypatch.delenv("PGDATABASE", raising=False)
    with nullcontext() if taken else pytest.raises(SettingsError, match="another host"):
        insist_same_place(dsn, answer)


def test_the_place_may_stand_in_kwargs(
    postgres: PrivatePostgres, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known as well as from a connection string: two guards of it share one ledger."""
    everything = conninfo_to_dict(dsn)
    monkeypatch.setenv("DATABASE_URL", "mysql://u@two/shop")
    one = Guard(name="one", mode="sync", kwargs=everything, **SMALL)
    elsewhere = make_conninfo(dsn, host="nowhere.invalid", port=1)
    place = {"host": "localhost", "port": postgres.port}
    two = Guard(elsewhere, name="two", mode="sync", kwargs=place, **SMALL)
    three = Guard(dsn, name="three", mode="sync", kwargs=lambda: {"host": "127.0.0.1"}, **SMALL)
    four = Guard(lambda: elsewhere, name="four", mode="sync", kwargs=lambda: place, **SMALL)
    with one, two, three, four:
        assert all(guard.ready for guard in (one, two, three, four))
        ledgers = [guard._published()["ledger"] for guard in (one, two, three, four)]
        assert ledgers[0] == ledgers[1] == ledgers[2] != ledgers[3]
        assert [scope_of(guard).role == 0 for guard in (one, two, three)] == [False, False, True]
        assert [guard.status()["budget"]["in_use"] for guard in (one, two, three)] == [6, 6, 6]


@pytest.mark.parametrize(
    ("kwargs", "same"),
    [
        ({"host": "two"}, False),
        ({"dbname": "shop"}, False),
        ({"password": "x", "host": None}, True),
        ({"host": "ONE"}, False),
        ({"host": "one", "port": 5432}, True),
        (lambda: {"host": "two"}, True),
        (None, True),
    ],
)
def test_keywords_tell_which_database_it_is(kwargs: Any, same: bool) -> None:
    """By the texts alone, since psycopg may not be imported yet."""
    one, url = "host=one dbname=app", "postgresql://one/app"
    assert same_database(url, one, kwargs) is same
    assert same_database(one, url, kwargs) is same


def test_a_default_guard_stands_beside_one_whose_keywords_lead_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", "host=one")
    Guard(name="main", kwargs={"application_name": "main"})
    assert [each.name for each in poolguard.runtime.lookup.guards_to_open()] == ["main"]
    Guard(name="main", kwargs={"host": "two"})
    assert [each.name for each in poolguard.runtime.lookup.guards_to_open()] == ["default", "main"]


def test_through_a_pooler_of_transactions_no_statement_is_prepared(dsn: str) -> None:
    """Whatever the keywords say."""
    thresholds = []
    guard = Guard(
        dsn,
        mode="sync",
        pooler="transaction",
        reset=lambda conn: thresholds.append(conn.prepare_threshold),
        kwargs={"prepare_threshold": 0},
        **SMALL,
    )
    answer(guard, then=lambda: thresholds)
    assert thresholds == [None]


# -- the class ---------------------------------------------------------------------------------


class Own(Connection[Any]):
    """A class that takes an argument of its own, and leaves a transaction open."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mark = "own"

    @classmethod
    def connect(  # type: ignore[override]
        cls, conninfo: str = "", *, tenant: str = "", **kwargs: Any
    ) -> Any:
        conn = super().connect(conninfo, **kwargs)
        conn.execute(f"SET application_name = '{tenant}'")
        return conn


class AsyncOwn(AsyncConnection[Any]):
    @classmethod
    async def connect(  # type: ignore[override]
        cls, conninfo: str = "", *, tenant: str = "", **kwargs: Any
    ) -> Any:
        conn = await super().connect(conninfo, **kwargs)
        await conn.execute(f"SET application_name = '{tenant}'")
        return conn


@pytest.mark.parametrize(("mode", "own"), [("sync", Own), ("async", AsyncOwn)])
def test_a_class_may_connect_in_its_own_way(dsn: str, mode: str, own: type[Any]) -> None:
    seen: list[Any] = []
    guard = Guard(
        dsn,
        mode=mode,
        connection_class=own,
        kwargs={"tenant": "zoo"},
        reset=of(mode, seen.append),
        **SMALL,
    )
    query = SAID.format("application_name")
    assert answer(guard, query, then=lambda: seen) == ("zoo",)
    assert [type(conn) for conn in seen] == [own]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_class_may_be_given_with_the_type_of_its_rows(dsn: str, mode: str) -> None:
    """As psycopg's documentation has it."""
    given = Connection[dict[str, Any]] if mode == "sync" else AsyncConnection[dict[str, Any]]
    guard = Guard(dsn, mode=mode, connection_class=given, kwargs={"row_factory": dict_row}, **SMALL)
    assert answer(guard) == {"said": 1}


# -- what is of no use -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"configure": SECRET}, r"configure=<str>: it takes a callable"),
        ({"reset": 1, "check": ()}, r"reset=<int>.*\n.*check=<tuple>"),
        ({"kwargs": [("password", SECRET)]}, r"kwargs=<list>: it takes a dict"),
        ({"kwargs": {1: SECRET}}, r"kwargs=<dict>: it takes a dict"),
        ({"connection_class": int}, r"connection_class=<int>: it takes a subclass of psycopg"),
        ({"connection_class": SECRET}, r"connection_class=<str>: it takes a subclass"),
        ({"connection_class": Connection, "mode": "async"}, r"of psycopg.AsyncConnection, since"),
        ({"connection_class": AsyncOwn, "mode": "sync"}, r"<AsyncOwn>.*of psycopg.Connection, "),
        ({"configure": aconfigure, "mode": "sync"}, r"configure: it is a coroutine function"),
        ({"kwargs": functools.partial(aconfigure), "mode": "sync"}, r"kwargs: it is a corout"),
    ],
)
def test_what_is_of_no_use_is_one_clear_error(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        Guard("host=one", **given)
    assert SECRET not in str(caught.value)


def test_what_is_of_no_use_to_its_kind_is_said_when_that_is_known(dsn: str) -> None:
    guard = Guard(dsn, connection_class=AsyncConnection, **SMALL)
    with pytest.raises(SettingsError, match="since the guard is sync"):
        guard.open()
    assert not guard.opened

    class Later:
        async def __call__(self, conn: object) -> None:
            raise AssertionError

    guard = Guard(dsn, check=Later(), **SMALL)
    with pytest.raises(SettingsError, match="check: it is a coroutine function"):
        guard.open()


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"sslmod": SECRET}, "did you mean sslmode"),
        ({"database": SECRET}, "write dbname="),
        ({"conninfo": SECRET}, "the guard's first argument"),
        ({f"{SECRET} x": 1}, "no parameter of one of its names"),
        ({"port": SECRET}, "none is shown"),
        ({"host": f"a;password={SECRET}"}, "none is shown"),
        ({"user": f"postgresql://u:{SECRET}@localhost/x"}, "none is shown"),
        ({"password": f"{SECRET}\udcff"}, "none is shown"),
    ],
)
def test_keywords_that_nobody_takes_are_refused_unseen(
    kwargs: dict[str, Any], words: str, dsn: str
) -> None:
    guard = Guard(dsn, mode="sync", kwargs=kwargs, **SMALL)
    with pytest.raises(PoolguardError, match=words) as caught:
        guard.open(10)
    assert SECRET not in f"{caught.value!r} {guard!r} {guard.arguments!r} {guard.status()}"


@pytest.mark.parametrize(
    "kwargs",
    [
        {"password": "p;s=s&'\\ x", "sslmode": "disable"},
        {"host": "/run/a=b", "port": "5432,5433", "dbname": "a;b=c"},
        {"context": None, "cursor_factory": None, "prepare_threshold": None, "row_factory": None},
    ],
)
def test_keywords_that_are_meant_are_taken(kwargs: Mapping[str, Any]) -> None:
    parse_keywords(kwargs, Connection)
    parse_keywords(kwargs, AsyncConnection)
    given = conninfo_to_dict(str(located("host=one user=me", kwargs)))
    assert given == {"host": "one", "user": "me"} | {k: v for k, v in kwargs.items() if v}


def test_a_password_in_kwargs_is_nowhere_in_sight(
    postgres: PrivatePostgres, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor where the server refuses it."""
    caplog.set_level(0)
    role = postgres.create_role("kept")
    kwargs = {"password": SECRET, "row_factory": dict_row}
    guard = Guard(role, mode="sync", kwargs=kwargs, acquire_timeout=0.5, **SMALL)
    guard.open()
    until(lambda: guard.status()["last_error"])
    with pytest.raises(PoolguardError) as caught, guard.connection():
        pass
    with pytest.raises(SettingsError, match="with another kwargs") as refused:
        Guard(role, mode="sync", kwargs={"password": f"{SECRET}2"}, **SMALL)
    seen = [caught.value, refused.value, guard, guard.arguments, guard.status(), guard.pool]
    assert SECRET not in " ".join([*map(repr, seen), *map(str, seen), caplog.text])


def test_making_a_guard_imports_no_psycopg() -> None:
    """Under gevent it must come after the patch."""
    code = (
        "import sys, poolguard\n"
        "poolguard.Guard('host=one', configure=print, kwargs={'host': 'two'}, mode='sync')\n"
        "try: poolguard.Guard('host=one', connection_class=int)\n"
        "except poolguard.SettingsError: print('psycopg' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# -- which guard it is -------------------------------------------------------------------------


def test_they_are_part_of_what_a_guard_is(dsn: str) -> None:
    """A file that is run again makes new functions and classes, which are the same to an open
    guard where their names are."""
    kwargs = {"row_factory": dict_row, "connect_timeout": 3}
    given: dict[str, Any] = {"configure": configure, "kwargs": kwargs}
    first = Guard(dsn, mode="sync", **given, **SMALL)
    assert Guard(dsn, mode="sync", **given, **SMALL) is first
    kwargs["connect_timeout"] = 4  # ours is a copy
    other = Guard(dsn, mode="sync", **given, **SMALL)
    assert other is not first
    assert poolguard.guard() is other

    def made() -> dict[str, Any]:
        def reset(conn: object) -> None: ...

        class Row:
            def __init__(self, cursor: object) -> None: ...

        class Mine(Connection[Any]): ...

        return {"reset": reset, "kwargs": {"row_factory": Row}, "connection_class": Mine}

    open_one = Guard(dsn, mode="sync", **made(), **SMALL)
    with open_one:
        assert Guard(dsn, mode="sync", **made(), **SMALL) is open_one
        changes: list[tuple[str, Any]] = [
            ("reset", configure),
            ("check", configure),
            ("kwargs", {}),
            ("kwargs", dict),
            ("connection_class", Connection),
        ]
        for name, value in changes:
            with pytest.raises(SettingsError, match=f"another {name}"):
                Guard(dsn, mode="sync", **made() | {name: value}, **SMALL)


def test_its_repr_shows_names_alone() -> None:
    given = PoolArguments(check=configure, kwargs={"password": SECRET})
    assert repr(given) == "<PoolArguments check, kwargs>"
