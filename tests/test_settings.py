"""Settings: the table of defaults, who wins, what is refused and in which words, and no secrets."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import pytest

import poolguard
from poolguard.errors import SettingsError
from poolguard.settings import (
    DESCRIPTIONS,
    VARIABLES,
    Percent,
    Settings,
    checked_name,
    other_database,
)
from poolguard.settings import settings as module

DEFAULTS: dict[str, Any] = {
    "dsn": None,
    "mode": "auto",
    "budget": "auto",
    "reserve": "auto",
    "instances": 1,
    "workers": "auto",
    "ledger": "host",
    "ledger_dsn": None,
    "ledger_label": None,
    "floor": "auto",
    "max_size": "auto",
    "acquire_timeout": 5.0,
    "connect_timeout": 5.0,
    "max_waiting": 0,
    "max_connecting": 32,
    "warmup_timeout": 10.0,
    "on_warmup_failure": "serve",
    "check_interval": 25.0,
    "check_after_idle": 30.0,
    "check_timeout": 1.0,
    "idle_timeout": 1800.0,
    "max_lifetime": 3600.0,
    "leak_after": 0.0,
    "pooler": "auto",
    "wrap": "on",
    "spans": "slow",
    "metrics": "on",
    "history": "on",
    "runtime_dir": None,
    "ready_path": None,
}
TIMES = [name for name, default in DEFAULTS.items() if isinstance(default, float)]
TIMES_OR_ZERO = ["warmup_timeout", "check_after_idle", "leak_after"]
URL = "postgresql://alice:s3cret@db.internal:6432/shop"
KEY_VALUE = "host=db.internal user=alice password=s3cret dbname=shop"
FRAGMENTS = ("s3cret", "alice", "db.internal", "6432", "shop")


def build(environ: dict[str, str] | None = None, /, **keywords: Any) -> Settings:
    """Settings that see nothing of this test run's own environment."""
    return Settings.build(environ=environ or {}, **keywords)


def refusal(environ: dict[str, str] | None = None, /, **keywords: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        build(environ, **keywords)
    # a chained error's text would be in the traceback as well
    assert caught.value.__context__ is None
    return str(caught.value)


# -- the table


@pytest.mark.parametrize("made", [Settings(), build()], ids=["Settings()", "build()"])
def test_defaults_are_the_tables(made: Settings) -> None:
    shown = {name: getattr(made, name) for name in VARIABLES}
    assert shown == DEFAULTS
    assert {name: type(value) for name, value in shown.items()} == {
        name: type(value) for name, value in DEFAULTS.items()
    }


def test_each_setting_has_a_variable_and_one_line_of_meaning() -> None:
    assert list(VARIABLES) == list(DEFAULTS) == list(DESCRIPTIONS)
    assert all(VARIABLES[name] == f"POOLGUARD_{name.upper()}" for name in DEFAULTS)
    assert all(meaning and "\n" not in meaning for meaning in DESCRIPTIONS.values())


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_default_may_be_given_as_a_text(name: str) -> None:
    default = DEFAULTS[name]
    if default is not None:
        assert build({VARIABLES[name]: str(default).removesuffix(".0")}) == Settings()


# -- who wins


def test_keywords_win_over_variables() -> None:
    made = build({"POOLGUARD_FLOOR": "3", "POOLGUARD_WORKERS": "2"}, floor=4)
    assert (made.floor, made.workers) == (4, 2)


@pytest.mark.parametrize(
    ("environ", "keyword", "expected"),
    [
        ({}, None, None),
        ({"PGHOST": "db"}, None, None),
        ({"DATABASE_URL": "postgres://a"}, None, "postgres://a"),
        ({"DATABASE_URL": "postgres://a", "POOLGUARD_DSN": "host=b"}, None, "host=b"),
        ({"DATABASE_URL": "postgres://a", "POOLGUARD_DSN": "host=b"}, "host=c", "host=c"),
        ({"DATABASE_URL": "postgres://a", "POOLGUARD_DSN": " "}, None, "postgres://a"),
        ({"DATABASE_URL": ""}, None, None),
        # to psycopg an empty conninfo is a choice: libpq's own variables
        ({"DATABASE_URL": "postgres://a"}, "", None),
    ],
)
def test_dsn_precedence(environ: dict[str, str], keyword: Any, expected: str | None) -> None:
    assert build(environ, dsn=keyword).dsn == expected


def test_a_keyword_of_none_is_not_given() -> None:
    assert build({"POOLGUARD_FLOOR": "3"}, floor=None).floor == 3


@pytest.mark.parametrize("empty", ["", "  ", "\n"])
def test_an_empty_variable_is_not_set(empty: str) -> None:
    made = build({"POOLGUARD_FLOOR": empty, "POOLGUARD_TYPO": empty})
    assert made == Settings()
    assert made.source("floor") == "default"


def test_a_variable_that_a_keyword_overrides_is_not_judged() -> None:
    assert build({"POOLGUARD_FLOOR": "many"}, floor=2).floor == 2


def test_the_environment_is_the_process_own_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOLGUARD_MAX_WAITING", "77")
    assert Settings.build().max_waiting == 77


# -- what is taken


def token() -> str:
    return URL


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("dsn", f" {URL}\n", URL),
        ("dsn", KEY_VALUE, KEY_VALUE),
        ("dsn", "service=shop", "service=shop"),
        ("dsn", token, token),
        ("mode", "async", "async"),
        ("budget", "5", 5),
        ("budget", 5, 5),
        ("budget", "80%", Percent(80)),
        ("budget", " 80% ", Percent(80)),
        ("budget", "0.5%", Percent(0.5)),
        ("budget", "100%", Percent(100)),
        ("budget", Percent(33.3), Percent(33.3)),
        ("reserve", "0", 0),
        ("workers", "\t4 ", 4),
        ("floor", 1, 1),
        ("floor", "auto", "auto"),
        ("max_size", "+7", 7),
        ("acquire_timeout", 7, 7.0),
        ("acquire_timeout", "2.5", 2.5),
        ("connect_timeout", ".5", 0.5),
        ("max_lifetime", 10**9, 1e9),
        ("max_waiting", "0", 0),
        ("runtime_dir", "/run/shop", Path("/run/shop")),
        ("runtime_dir", Path("/run/shop"), Path("/run/shop")),
        ("runtime_dir", "/run/shop/", Path("/run/shop")),
        ("runtime_dir", "/run/in a/\udcff", Path("/run/in a/\udcff")),
        ("ledger", "fleet", "fleet"),
        ("ready_path", "/ready", "/ready"),
        ("ready_path", "/-/a.b/_c;d=1:2/~@x", "/-/a.b/_c;d=1:2/~@x"),
    ],
)
def test_accepted(name: str, given: Any, expected: Any) -> None:
    value = getattr(build(**{name: given}), name)
    assert value == expected
    assert type(value) is type(expected)
    if isinstance(given, str):
        assert getattr(build({VARIABLES[name]: given}), name) == expected


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("ledger_dsn", f" {URL}\n", URL),
        ("ledger_dsn", KEY_VALUE, KEY_VALUE),
        ("ledger_dsn", "postgresql+psycopg://db/shop", "postgresql://db/shop"),
        ("ledger_dsn", token, token),
        ("ledger_dsn", " ", None),
        ("ledger_label", " shop/checkout-2 ", "shop/checkout-2"),
        ("ledger_label", "shop@orders", "shop@orders"),
        ("ledger_label", "~" * 100, "~" * 100),
    ],
)
def test_accepted_of_a_fleet(name: str, given: Any, expected: Any) -> None:
    """They mean nothing without one."""
    assert getattr(build(ledger="fleet", **{name: given}), name) == expected
    if isinstance(given, str) and given.strip():
        made = build({"POOLGUARD_LEDGER": "fleet", VARIABLES[name]: given})
        assert (getattr(made, name), made.source(name)) == (expected, f"variable {VARIABLES[name]}")


@pytest.mark.parametrize(
    ("name", "literal"),
    [
        ("mode", module.Mode),
        ("ledger", module.Ledger),
        ("on_warmup_failure", module.OnWarmupFailure),
        ("pooler", module.Pooler),
        ("wrap", module.Wrap),
        ("spans", module.Spans),
        ("metrics", module.Metrics),
        ("history", module.History),
    ],
)
def test_choices_are_the_annotated_ones(name: str, literal: Any) -> None:
    for choice in get_args(literal):
        assert getattr(build(**{name: choice}), name) == choice
    text = refusal(**{name: "sometimes"})
    assert f"keyword {name}='sometimes': it takes " in text
    assert all(repr(choice) in text for choice in get_args(literal))
    assert name in refusal(**{name: get_args(literal)[0].upper()})


@pytest.mark.parametrize("name", TIMES)
def test_times(name: str) -> None:
    if name in TIMES_OR_ZERO:
        assert getattr(build(**{name: "0"}), name) == 0.0
        allowed = "seconds, 0 or at least 0.001 and at most 1000000000"
    else:
        assert f"keyword {name}=0: " in refusal(**{name: 0})
        allowed = "seconds, at least 0.001 and at most 1000000000"
    for right in (0.001, 1e9):
        assert getattr(build(**{name: right}), name) == right
    for wrong, shown in [
        (-0.5, "-0.5"),
        (0.0009, "0.0009"),
        (1e-9, "1e-09"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
        (1e10, "10000000000"),
        (10**400, "a number of more than 40 digits"),
        (10**5000, "a number of more than 40 digits"),
        (Decimal(5), "<Decimal>"),
        (True, "True"),
        ("soon", "'soon'"),
        ("inf", "'inf'"),
        ("nan", "'nan'"),
        ("1_0", "'1_0'"),
        ("5s", "'5s'"),
        ("٥", "'٥'"),
        ([5], "<list>"),
    ]:
        text = refusal(**{name: wrong})
        assert f"keyword {name}={shown}" in text
        assert allowed in text
        assert text.endswith(f"drop it for the default ({DEFAULTS[name]:g})")


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("budget", 1),
        ("reserve", 0),
        ("instances", 1),
        ("workers", 1),
        ("floor", 1),
        ("max_size", 1),
        ("max_waiting", 0),
        ("max_connecting", 1),
    ],
)
def test_whole_numbers(name: str, least: int) -> None:
    assert getattr(build(**{name: least}), name) == least
    wrongs = [least - 1, -5, 10**9 + 1, 2**31, 10**5000, 1.5, 2.0, float("inf"), True, Decimal(5)]
    for wrong in [*wrongs, "1.5", "1_0", "0x5", "five", "1e3", "٥", "9" * 18]:
        text = refusal(**{name: wrong})
        assert f"keyword {name}=" in text
        assert f"a whole number from {least} to 1000000000" in text
        assert text.endswith(f"drop it for the default ({DEFAULTS[name]!r})")
    assert ("'auto'" in refusal(**{name: -5})) == (DEFAULTS[name] == "auto")


@pytest.mark.parametrize(
    "wrong", ["0%", "-5%", "101%", "%", "x%", "nan%", "inf%", "80 %", "80%%", "8e1%", 0.8, None]
)
def test_percentages(wrong: Any) -> None:
    if wrong is None:
        assert "floor='80%'" in refusal(floor="80%")  # only a budget takes one
    else:
        assert "a percentage above 0% and up to 100%, such as '80%'" in refusal(budget=wrong)


@pytest.mark.parametrize("wrong", [0, -1, 100.5, float("nan"), float("inf"), True, "x", URL])
def test_percent_is_never_out_of_range(wrong: Any) -> None:
    with pytest.raises(SettingsError, match="more than 0, up to 100") as caught:
        Percent(wrong)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "wrong", "remedy"),
    [
        ("dsn", 5, "a libpq string, a postgresql:// URL"),
        ("dsn", b"host=db", "a libpq string, a postgresql:// URL"),
        ("dsn", "mysql://db/shop", "a postgresql:// URL"),
        ("ledger_dsn", 5, "a libpq string, a postgresql:// URL"),
        ("ledger_dsn", "mysql://db/shop", "a postgresql:// URL"),
        ("ledger_label", "", "a name of up to 100"),
        ("ledger_label", "two words", "without spaces"),
        ("ledger_label", "prêt", "ASCII"),
        ("ledger_label", "x" * 101, "up to 100"),
        ("ledger_label", 7, "a name of up to 100"),
        ("runtime_dir", "run/shop", "absolute path"),
        ("runtime_dir", "", "absolute path"),
        ("runtime_dir", Path("run"), "absolute path"),
        ("runtime_dir", "~/run", "absolute path"),
        ("runtime_dir", "/run/\0", "absolute path"),
        ("runtime_dir", "/run/a\nb", "absolute path"),
        ("runtime_dir", "/run/\ud800", "absolute path"),
        ("ready_path", "ready", "begins with '/'"),
        ("ready_path", "/ready?full=1", "without query"),
        ("ready_path", "/ready now", "spaces"),
        ("ready_path", "/ready%20now", "without query, %"),
        ("ready_path", "/prêt", "ASCII"),
        ("ready_path", "/ready\0", "ASCII"),
    ],
)
def test_refused(name: str, wrong: Any, remedy: str) -> None:
    text = refusal(**{name: wrong})
    assert text.startswith(f"keyword {name}=")
    assert remedy in text


def test_an_error_names_where_the_value_came_from() -> None:
    assert refusal({"POOLGUARD_FLOOR": "-3"}) == (
        "variable POOLGUARD_FLOOR='-3': it takes a whole number from 1 to 1000000000, or 'auto'; "
        "correct it, or drop it for the default ('auto')"
    )
    assert refusal(floor=-3).startswith("keyword floor=-3: it takes a whole number from 1")
    assert refusal({"POOLGUARD_DSN": "mysql://x"}).startswith("variable POOLGUARD_DSN=<str>: ")


def test_a_long_value_is_shown_in_part() -> None:
    for text in (refusal(floor="9" * 5000), refusal(floor=10**5000), refusal(mode="x" * 5000)):
        assert len(text) < 300
    assert f"runtime_dir='{'x' * 100}'…: it takes" in refusal(runtime_dir="x" * 101)


def test_all_problems_are_told_at_once_each_in_one_line() -> None:
    text = refusal({"POOLGUARD_FLOR": "1", "POOLGUARD_SPANS": "a\nb"}, floor=0, colour="red")
    lines = text.split("\n")
    assert [line.split(" ")[1].split("=")[0] for line in lines] == [
        "colour",
        "POOLGUARD_FLOR",
        "floor",
        "POOLGUARD_SPANS",
    ]


# -- what is unknown


@pytest.mark.parametrize(
    ("keyword", "meant"),
    [
        ("flor", "floor"),
        ("maxsize", "max_size"),
        ("acquire_timeut", "acquire_timeout"),
        ("min_size", "floor"),
        ("timeout", "acquire_timeout"),
        ("max_idle", "idle_timeout"),
        ("conninfo", "dsn"),
        ("num_workers", "max_connecting"),
        ("pool_size", "floor"),
        ("max_overflow", "max_size"),
        ("pool_recycle", "max_lifetime"),
    ],
)
def test_an_unknown_name_suggests_the_closest(keyword: str, meant: str) -> None:
    assert refusal(**{keyword: 1}) == f"keyword {keyword} is no setting; did you mean {meant}?"
    variable = f"POOLGUARD_{keyword.upper()}"
    assert refusal({variable: "1"}) == (
        f"variable {variable} is no setting; did you mean {VARIABLES[meant]}?"
    )


def test_an_unknown_name_like_no_other_lists_them_all() -> None:
    assert refusal(zzz=1).endswith(", ".join(DEFAULTS))
    assert refusal({"POOLGUARD_ZZZ": "1"}).endswith(", ".join(VARIABLES.values()))


@pytest.mark.parametrize(
    ("keyword", "why"),
    [
        ("reconnect_timeout", "connecting is tried again for ever"),
        ("reconnect_failed", "connecting is tried again for ever"),
        ("open", "a guard is opened by the hooks, the middleware, or its own open()"),
        ("close_returns", "poolguard.GuardedPool alone takes it"),
    ],
)
def test_what_only_psycopg_pool_takes_suggests_nothing_else(keyword: str, why: str) -> None:
    assert refusal(**{keyword: 1}) == f"keyword {keyword} is no setting; drop it: {why}"


def test_a_keyword_in_capitals_is_no_setting() -> None:
    assert refusal(FLOOR=1).endswith("did you mean floor?")


def test_an_unknown_keyword_is_told_even_when_none() -> None:
    assert "colour" in refusal(colour=None)
    assert "_sources" in refusal(_sources={})


def test_variables_of_others_and_of_the_lab_are_let_be() -> None:
    others = {"POOLGUARD_PG_BIN": "/opt/pg", "MY_POOLGUARD_X": "1", "POOLGUARDIAN": "1", "X": "1"}
    assert build(others) == Settings()


@pytest.mark.parametrize(
    "variable",
    [
        "POOLGUARD_PORT",
        "POOLGUARD_SERVICE_HOST",
        "POOLGUARD_SERVICE_PORT",
        "POOLGUARD_SERVICE_PORT_HTTP",
        "POOLGUARD_PORT_5432_TCP",
        "POOLGUARD_PORT_5432_TCP_ADDR",
        "POOLGUARD_PORT_5432_TCP_PORT",
        "POOLGUARD_PORT_5432_TCP_PROTO",
        "POOLGUARD_PORT_53_UDP",
        "POOLGUARD_WEB_PORT",
        "POOLGUARD_WEB_API_SERVICE_HOST",
        "POOLGUARD_WEB_PORT_80_TCP_ADDR",
        "POOLGUARD_1_PORT_80_TCP_START",
        "POOLGUARD_NAME",
        "POOLGUARD_WEB_NAME",
        "POOLGUARD_ENV_PATH",
        "POOLGUARD_WEB_ENV_FLOOR",
    ],
)
def test_what_a_container_runtime_injects_is_let_be(variable: str) -> None:
    """For a service that is called poolguard, or poolguard-web."""
    assert build({variable: "/web/poolguard"}) == Settings()


@pytest.mark.parametrize(
    "variable",
    [
        "POOLGUARD_FLOR",
        "POOLGUARD_PORTS",
        "POOLGUARD_SPORT",
        "POOLGUARD_SERVICE",
        "POOLGUARD_PORT_TCP",
        "POOLGUARD_ENV",
        "POOLGUARD_NAME",
    ],
)
def test_what_only_looks_injected_is_refused(variable: str) -> None:
    assert f"variable {variable} is no setting; " in refusal({variable: "shop"})


# -- the names of guards


class Place(str, Enum):  # as StrEnum, which Python 3.10 has not
    MAIN = "main"


@pytest.mark.parametrize("name", ["default", "a b", "eu/shop@1", "é", "🐘", "x" * 100, Place.MAIN])
def test_the_name_of_a_guard(name: str) -> None:
    assert checked_name(name) == name
    assert type(checked_name(name)) is str


@pytest.mark.parametrize(
    "name",
    [7, None, b"x", ["a"], "", " ", "a\0", "a\n", "\x1b[2J", "\ud800", "x" * 101, URL, KEY_VALUE],
)
def test_what_is_no_name_of_a_guard(name: Any) -> None:
    for make in (poolguard.Guard, checked_name):
        with pytest.raises(SettingsError, match=r"^keyword name=.* up to 100 printable") as caught:
            make(name=name)
        assert "\n" not in str(caught.value)
        assert [word for word in FRAGMENTS if word in str(caught.value)] == []
    with pytest.raises(SettingsError, match=r"^keyword name="):
        poolguard.guard(name)


# -- what contradicts


@pytest.mark.parametrize(
    ("keywords", "follows"),
    [
        ({"acquire_timeout": 0.5}, {"check_timeout": 0.5}),
        ({"acquire_timeout": 0.001}, {"check_timeout": 0.001}),
        ({"check_timeout": 20}, {"acquire_timeout": 20.0}),
        ({"max_lifetime": 20}, {"check_interval": 10.0}),
        ({"max_lifetime": 25}, {"check_interval": 12.5}),
        ({"max_lifetime": 0.001}, {"check_interval": 0.0005}),
        ({"check_interval": 7200}, {"max_lifetime": 14400.0}),
        ({"check_interval": 1e9}, {"max_lifetime": 2e9}),
        (
            {"acquire_timeout": 0.5, "max_lifetime": 20},
            {"check_timeout": 0.5, "check_interval": 10.0},
        ),
        ({"acquire_timeout": 1, "max_lifetime": 26}, {}),
        ({"max_size": 2}, {}),
        ({"floor": 200}, {}),
    ],
)
def test_a_default_follows_what_was_set(
    keywords: dict[str, Any], follows: dict[str, float]
) -> None:
    variables = {VARIABLES[name]: str(value) for name, value in keywords.items()}
    for made in (build(**keywords), build(variables), Settings(**keywords)):
        shown = {name: getattr(made, name) for name in DEFAULTS}
        assert shown == DEFAULTS | keywords | follows
        assert [made.source(name) for name in follows] == ["default"] * len(follows)


def test_a_default_that_followed_goes_back_with_what_it_followed() -> None:
    made = build(acquire_timeout=0.5, floor=2)
    assert made.cite("check_timeout") == "default check_timeout=0.5"
    assert made.replace(acquire_timeout=None) == Settings(floor=2)
    assert made.replace(acquire_timeout=0.2).check_timeout == 0.2
    assert made.replace(floor=3).check_timeout == 0.5
    with pytest.raises(SettingsError, match="keyword check_timeout=1 must be at most"):
        made.replace(check_timeout=1)


def test_what_was_set_to_its_default_does_not_follow() -> None:
    assert "variable POOLGUARD_CHECK_TIMEOUT=1 must be at most keyword acquire_timeout=0.5:" in (
        refusal({"POOLGUARD_CHECK_TIMEOUT": "1"}, acquire_timeout=0.5)
    )


@pytest.mark.parametrize(
    ("environ", "keywords", "parts"),
    [
        (
            {"POOLGUARD_MAX_SIZE": "10"},
            {"floor": 20},
            ["keyword floor=20 ", "variable POOLGUARD_MAX_SIZE=10:", "lower floor"],
        ),
        (
            {"POOLGUARD_RESERVE": "5"},
            {"budget": 50},
            ["variable POOLGUARD_RESERVE=5 ", "keyword budget=50:", "drop one"],
        ),
        ({}, {"budget": "80%", "reserve": 5}, ["keyword budget=80%", "keyword reserve=5"]),
        (
            {},
            {"budget": 3, "instances": 4},
            ["keyword budget=3 ÷ keyword instances=4 gives an instance 0", "needs 1", "least 4,"],
        ),
        (
            {"POOLGUARD_WORKERS": "6"},
            {"budget": 11, "instances": 2},
            [
                "keyword budget=11 ÷ keyword instances=2 gives an instance 5",
                "variable POOLGUARD_WORKERS=6 × at least 1 warm connection needs 6",
                "raise budget to at least 12,",
            ],
        ),
        (
            {},
            {"budget": 20, "instances": 2, "workers": 4, "floor": 3},
            ["gives an instance 10", "keyword workers=4 × keyword floor=3 needs 12", "least 24,"],
        ),
        (
            {},
            {"budget": 10, "floor": 11},
            ["default instances=1 gives", "at least 1 worker × keyword floor=11 needs 11"],
        ),
        (
            {"POOLGUARD_CHECK_INTERVAL": "25"},
            {"max_lifetime": 20},
            ["variable POOLGUARD_CHECK_INTERVAL=25 must be below keyword max_lifetime=20:"],
        ),
        ({}, {"check_interval": 60, "max_lifetime": 60}, ["must be below"]),
        (
            {},
            {"acquire_timeout": 0.5, "check_timeout": 2},
            ["keyword check_timeout=2 must be at most keyword acquire_timeout=0.5:"],
        ),
        (
            {},
            {"workers": 9000, "floor": 2, "budget": 30000},
            ["keyword workers=9000 × keyword floor=2 needs 18000", "no more than 16384; lower"],
        ),
        ({}, {"floor": 16385}, ["at least 1 worker × keyword floor=16385 needs 16385"]),
        (
            {"POOLGUARD_LEDGER_DSN": URL},
            {},
            [
                "variable POOLGUARD_LEDGER_DSN=<str> means nothing beside default ledger='host'",
                "set ledger to 'fleet', or drop it",
            ],
        ),
        (
            {},
            {"ledger": "static", "ledger_label": "shop"},
            ["keyword ledger_label='shop' means nothing beside keyword ledger='static'"],
        ),
        (
            {"POOLGUARD_POOLER": "transaction"},
            {"ledger": "fleet"},
            [
                "keyword ledger='fleet' cannot use variable POOLGUARD_POOLER='transaction'",
                "Set ledger_dsn to the database past the pooler, or ledger to 'host'",
            ],
        ),
        (
            {},
            {"ledger": "fleet", "budget": 2},
            [
                "keyword budget=2 is too small for keyword ledger='fleet'",
                "default instances=1 × (at least 1 worker × at least 1 warm connection, and 1 ",
                "1 kept free for a host that joins, make 3; raise budget to at least that",
            ],
        ),
        (
            {"POOLGUARD_WORKERS": "4"},
            {"ledger": "fleet", "budget": 39, "instances": 3, "floor": 3},
            [
                "keyword instances=3 × (variable POOLGUARD_WORKERS=4 × keyword floor=3, and 1 ",
                "make 40;",
            ],
        ),
        (
            {},
            {"ledger": "fleet", "budget": 16385},
            ["keyword budget=16385 is more than the 16384 that keyword ledger='fleet' counts"],
        ),
        ({}, {"ledger": "fleet", "floor": 16385}, ["counts no more than 16384"]),
    ],
)
def test_contradictions(
    environ: dict[str, str], keywords: dict[str, Any], parts: list[str]
) -> None:
    text = refusal(environ, **keywords)
    assert "\n" not in text
    assert [part for part in parts if part not in text] == []


def test_several_contradictions_are_told_at_once() -> None:
    problems = {"floor": 3, "max_size": 2, "check_interval": 20, "max_lifetime": 20}
    assert refusal(**problems, acquire_timeout=0.5, check_timeout=2).count("\n") == 2


@pytest.mark.parametrize(
    "keywords",
    [
        {"floor": 10, "max_size": 10},
        {"floor": 10, "max_size": "auto"},
        {"reserve": 0},
        {"budget": 4, "instances": 4},
        {"budget": 12, "instances": 2, "workers": 2, "floor": 3},
        {"budget": 10, "max_size": 50},
        {"budget": "1%", "instances": 50, "workers": 50, "floor": 50},
        {"check_interval": 59.9, "max_lifetime": 60},
        {"check_timeout": 2, "acquire_timeout": 2},
        {"connect_timeout": 60},
        {"idle_timeout": 7200},
        {"workers": 9000, "floor": 2, "ledger": "static"},
        {"budget": 10**9},
        {"ledger": "fleet", "budget": 3},
        {"ledger": "fleet", "budget": 16384},
        {"ledger": "fleet", "budget": 40, "instances": 3, "workers": 4, "floor": 3},
        {"ledger": "fleet", "pooler": "transaction", "ledger_dsn": "service=past"},
        {"ledger": "fleet", "pooler": "session"},
        {"ledger": "host", "ledger_dsn": " "},
    ],
)
def test_what_only_seems_to_contradict(keywords: dict[str, Any]) -> None:
    build(**keywords)


# -- no secrets


@pytest.mark.parametrize("dsn", [URL, KEY_VALUE, "alice:s3cret@db.internal:6432"])
@pytest.mark.parametrize("name", [name for name in DEFAULTS if name not in ("dsn", "ledger_dsn")])
def test_a_dsn_in_the_wrong_place_is_not_echoed(name: str, dsn: str) -> None:
    texts = [refusal(**{name: dsn}), refusal({VARIABLES[name]: dsn}), refusal(**{name: Path(dsn)})]
    assert [word for word in FRAGMENTS for text in texts if word in text] == []
    assert "<hidden>" in texts[0]


@pytest.mark.parametrize("dsn", [f"mysql{URL[10:]}", URL.encode(), {"conninfo": URL}, [URL], {URL}])
@pytest.mark.parametrize("name", ["dsn", "ledger_dsn"])
def test_a_refused_dsn_is_not_echoed(name: str, dsn: Any) -> None:
    text = refusal(ledger="fleet", **{name: dsn})
    assert [word for word in FRAGMENTS if word in text] == []
    assert f"keyword {name}=<{type(dsn).__name__}>" in text


@pytest.mark.parametrize("dsn", [URL, KEY_VALUE, "alice:s3cret@db.internal:6432", "PASSWORD-x"])
def test_a_dsn_is_no_label_of_a_fleet(dsn: str) -> None:
    """Labels are shown, to all that may read what a session is called."""
    text = refusal(ledger="fleet", ledger_label=dsn)
    assert "and no dsn; correct it" in text
    assert [word for word in FRAGMENTS if word in text] == []


def test_the_value_of_an_unknown_variable_is_not_echoed() -> None:
    assert "hunter2" not in refusal({"POOLGUARD_DB_PASSWORD": "hunter2"}, passwd="hunter2")


@pytest.mark.parametrize(("dsn", "kind"), [(URL, "<str>"), (KEY_VALUE, "<str>"), (token, None)])
def test_a_valid_dsn_is_only_said_to_be_there(dsn: Any, kind: str | None) -> None:
    made = build(dsn=dsn, budget="80%")
    kind = kind or "<function>"
    assert repr(made) == str(made) == f"Settings(dsn={kind}, budget=80%)"
    assert made.cite("dsn") == f"keyword dsn={kind}"
    assert "s3cret" not in refusal(dsn=dsn, floor=0)
    assert "s3cret" not in refusal(dsn=dsn, floor=5, max_size=4)


@pytest.mark.parametrize(("dsn", "kind"), [(URL, "<str>"), (KEY_VALUE, "<str>"), (token, None)])
def test_the_dsn_of_a_fleets_ledger_is_only_said_to_be_there(dsn: Any, kind: str | None) -> None:
    made = build(ledger="fleet", ledger_dsn=dsn)
    kind = kind or "<function>"
    assert repr(made) == str(made) == f"Settings(ledger='fleet', ledger_dsn={kind})"
    assert made.cite("ledger_dsn") == f"keyword ledger_dsn={kind}"
    for text in (refusal(ledger_dsn=dsn), refusal(ledger="fleet", ledger_dsn=dsn, floor=0)):
        assert [word for word in FRAGMENTS if word in text] == []


def test_a_fleets_settings_match_whatever_callable_says_where_it_is() -> None:
    """A configuration that is run again makes a new callable of the same."""
    one, other = (build(ledger="fleet", ledger_dsn=lambda: URL) for _ in range(2))
    assert one != other
    assert one.matches(other)
    assert not one.matches(other.replace(ledger_label="other"))
    assert not one.matches(other.replace(ledger_dsn=None))


# -- as an object


def test_repr_shows_what_is_not_default() -> None:
    assert repr(Settings()) == "Settings()"
    assert repr(build(mode="sync", floor=2, acquire_timeout=7, runtime_dir="/run/a")) == (
        "Settings(mode='sync', floor=2, acquire_timeout=7, runtime_dir='/run/a')"
    )


def test_sources() -> None:
    made = build({"POOLGUARD_WORKERS": "2", "DATABASE_URL": URL}, floor=3, instances=1)
    sources = {name: made.source(name) for name in ["workers", "dsn", "floor", "instances", "mode"]}
    assert sources == {
        "workers": "variable POOLGUARD_WORKERS",
        "dsn": "variable DATABASE_URL",
        "floor": "keyword floor",
        "instances": "keyword instances",
        "mode": "default",
    }
    assert Settings(floor=3).source("floor") == "keyword floor"
    assert made.cite("workers") == "variable POOLGUARD_WORKERS=2"
    assert made.cite("mode") == "default mode='auto'"


def test_equality_and_hash_ignore_where_values_came_from() -> None:
    one = build({"POOLGUARD_FLOOR": "3", "DATABASE_URL": URL}, acquire_timeout=5)
    other = build(floor=3, dsn=URL)
    assert one == other
    assert hash(one) == hash(other)
    assert one != other.replace(floor=4)
    assert one != other.replace(dsn=None)


def test_frozen() -> None:
    made: Any = Settings()
    with pytest.raises(AttributeError):
        made.floor = 3
    with pytest.raises((AttributeError, TypeError)):
        made.flor = 3
    percent: Any = Percent(80)
    with pytest.raises(AttributeError):
        percent.value = 81


def test_none_of_its_settings_can_be_taken_away() -> None:
    made = Settings(floor=3)
    with pytest.raises(AttributeError, match="cannot be changed"):
        del made.floor
    assert made.floor == 3


def test_code_that_names_no_setting_is_wrong() -> None:
    """What users write is read by build(), which says what they may have meant."""
    with pytest.raises(TypeError, match="Settings has no floors, flor"):
        Settings(flor=3, floors=4)  # type: ignore[call-arg]


def test_no_invalid_instance_can_be_made() -> None:
    with pytest.raises(SettingsError, match="keyword floor=0"):
        Settings(floor=0)
    with pytest.raises(SettingsError, match="keyword floor=3 must be at most keyword max_size=2"):
        Settings(floor=3, max_size=2)


def test_replace() -> None:
    made = build({"POOLGUARD_FLOOR": "3", "POOLGUARD_WORKERS": "2"})
    changed = made.replace(floor="4", workers=None, ready_path="/ready")
    assert changed == Settings(floor=4, ready_path="/ready")
    assert changed.source("floor") == "keyword floor"
    assert changed.source("workers") == "default"
    assert made.floor == 3
    with pytest.raises(SettingsError, match=r"variable POOLGUARD_FLOOR=3 .* keyword max_size=2"):
        made.replace(max_size=2)
    with pytest.raises(SettingsError, match="did you mean floor"):
        made.replace(flor=3)


@pytest.mark.parametrize(
    "variable",
    [
        "POOLGUARD_DSN",
        "DATABASE_URL",
        "PGHOST",
        "PGHOSTADDR",
        "PGPORT",
        "PGDATABASE",
        "PGUSER",
        "PGSERVICE",
    ],
)
def test_has_dsn(variable: str) -> None:
    assert Settings.has_dsn({variable: "x"})
    assert not Settings.has_dsn({variable: " "})


def test_has_no_dsn() -> None:
    others = {"PGSSLMODE": "require", "PGDATA": "/var/pg", "POOLGUARD_FLOOR": "3"}
    assert not Settings.has_dsn({})
    assert not Settings.has_dsn(others)


def test_importing_settings_imports_no_database_and_no_telemetry() -> None:
    script = (
        "import sys, poolguard.settings; poolguard.settings.Settings.build(environ={});"
        "print([name for name in sys.modules"
        " if name.split('.')[0] in ('psycopg', 'psycopg_pool', 'opentelemetry', 'gevent')])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("postgres://u:p@db/shop?sslmode=require", None),
        ("postgresql+psycopg://u:p@db:6432/shop", "postgresql://u:p@db:6432/shop"),
        ("postgresql+psycopg_async://db/shop?application_name=a&plugin=poolguard&options=-c", ""),
        ("postgresql+psycopg2:///shop?host=/run/pg", "postgresql:///shop?host=/run/pg"),
        ("postgresql+asyncpg://db/shop?plugin=one&plugin=two", "postgresql://db/shop"),
        ("postgresql://db/shop?plugin=poolguard", "postgresql://db/shop"),
        ("POSTGIS://db/shop", "postgresql://db/shop"),
    ],
)
def test_a_url_of_another_projects_form_is_understood(url: str, plain: str | None) -> None:
    """SQLAlchemy's drivers and plugins, and the schemes of those that configure Django."""
    expected = url if plain is None else plain
    if plain == "":
        expected = "postgresql://db/shop?application_name=a&options=-c"
    assert build({"DATABASE_URL": url}).dsn == expected
    assert build(dsn=url).dsn == expected
    assert Settings.has_dsn({"DATABASE_URL": url}, beside=True)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("mysql+pymysql://u:s3cret@db/x", "mysql"),
        ("sqlite::memory:", "sqlite"),
        ("sqlite+aiosqlite:///x", "sqlite"),
        ("s3cret://db", "unknown"),
    ],
)
def test_a_url_of_another_kind_of_database_is_not_ours(url: str, kind: str) -> None:
    """It is passed over where libpq's own variables say where PostgreSQL is."""
    environ = {"DATABASE_URL": url}
    assert other_database(environ) == kind
    assert not Settings.has_dsn(environ)
    assert build({**environ, "PGHOST": "db"}).dsn is None
    assert build({**environ, "POOLGUARD_DSN": "host=db"}).dsn == "host=db"
    assert build(environ, dsn="host=db").dsn == "host=db"
    said = refusal(environ)
    assert f"another kind of database ({kind})" in said
    assert "s3cret" not in said


@pytest.mark.parametrize("ours", ["host=db", "host=a:b", "user:p@db/shop", "", "postgres://db"])
def test_what_may_be_a_conninfo_is_ours(ours: str) -> None:
    assert other_database({"DATABASE_URL": ours}) is None


def test_a_callable_is_shown_by_its_type_and_asked_nothing() -> None:
    """It may be any object, and hold a token."""

    class Rotating:
        def __call__(self) -> str:
            return "host=127.0.0.1"

        def _fail(self, *_: object) -> Any:
            raise RuntimeError("s3cret")

        __eq__ = __bool__ = __repr__ = _fail
        __hash__ = None  # type: ignore[assignment]

    made = Settings.build(environ={}, dsn=Rotating())
    assert repr(made) == "Settings(dsn=<Rotating>)"
    assert made.cite("dsn") == "keyword dsn=<Rotating>"


# -- former names --------------------------------------------------------------------------------


def test_a_former_name_goes_on_working_and_warns_where_it_is_given() -> None:
    with pytest.warns(DeprecationWarning, match="called check_interval now") as caught:
        settings = Settings.build(environ={}, refresh_interval=7)
    assert settings.check_interval == 7
    assert settings == Settings.build(environ={}, check_interval=7)
    assert [warned.filename for warned in caught] == [__file__]


def test_a_former_name_may_be_given_by_code_that_has_no_name() -> None:
    """As what is executed with a namespace of its own."""
    with pytest.warns(DeprecationWarning, match="called check_interval now"):
        exec("build(environ={}, refresh_interval=7)", {"build": Settings.build})


def test_a_former_variable_goes_on_working_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match="called POOLGUARD_CHECK_INTERVAL now"):
        settings = Settings.build(environ={"POOLGUARD_REFRESH_INTERVAL": "7"})
    assert settings.cite("check_interval") == "variable POOLGUARD_CHECK_INTERVAL=7"


def test_a_copy_may_be_made_by_a_former_name() -> None:
    with pytest.warns(DeprecationWarning, match="called check_interval now"):
        assert Settings().replace(refresh_interval=7).check_interval == 7


def test_a_setting_given_by_both_of_its_names_is_refused() -> None:
    with pytest.raises(SettingsError, match="refresh_interval and check_interval are the same"):
        Settings.build(environ={}, refresh_interval=7, check_interval=8)


def test_an_unknown_former_name_is_as_unknown_as_any() -> None:
    with pytest.raises(SettingsError, match="refresh_intervall is no setting"):
        Settings.build(environ={}, refresh_intervall=7)
