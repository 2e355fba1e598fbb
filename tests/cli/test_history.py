"""``poolguard history`` and ``plan --history``: what they say of a folder, and of an empty one."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from poolguard.history.minutes import DAY, HOUR, KEPT
from poolguard.util.escape import escaped
from tests.cli.conftest import Run, elsewhere
from tests.history.filled import fill, now
from tests.history.past import MONDAY, MadeUp, minute, week

PLAN = ("plan", "--capacity", "100", "--workers", "4", "--threads", "8")


def until_now(length: int = 7 * DAY) -> MadeUp:
    """A week that ends now, each weekday of it on its day, without the first of its minutes."""
    made, end = week(), now()
    return MadeUp({at: made[(at - MONDAY) % len(made) + MONDAY] for at in range(end - length, end)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The history of a week, and that of a guard which began three hours ago."""
    path = tmp_path_factory.mktemp("history") / "run"
    fill(path, until_now())
    fill(path, MadeUp({now() - n: minute(3, level=4) for n in range(1, 3 * HOUR)}), "reports")
    return path


@pytest.fixture
def settled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, where the last minute that was recorded is over for long enough."""
    monkeypatch.setattr("poolguard.cli.history_files.SETTLED", 0.0)
    return folder


def as_json(out: str) -> Any:
    return json.loads(out)


def guard_of(out: str, name: str = "default") -> Any:
    [found] = [each for each in as_json(out)["guards"] if each["guard"] == name]
    return found


# --- the picture


def test_it_draws_the_week_and_names_the_numbers(run: Run, folder: Path) -> None:
    ran = run("history", "--runtime-dir", str(folder), "--guard", "default")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("guard default: the last 7 days, by the clock here (")
    assert len(re.findall(r"^\w{3} \d+ \w{3}: \d+ lent at once", ran.out, re.M)) == 8
    assert re.search(
        r"^floor 13 would have covered 99.9 % of the .*max_size 31; budget 31", ran.out, re.M
    )
    assert "160 connections created while a request waited." in " ".join(ran.out.split())
    assert "Note" not in ran.out
    assert "\x1b" not in ran.out


def test_guards_of_one_name_are_told_apart_by_their_databases(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "run"
    for database, lent in (("shop", 3), ("billing", 5)):
        past = MadeUp({now() - n: minute(lent, level=1) for n in range(1, 3 * HOUR)})
        fill(path, past, database=database)
    fill(path, MadeUp({now() - 9: minute(3, level=4)}), "reports")
    ran = run("history", "--runtime-dir", str(path))
    headings = re.findall(r"^guard (.*): the last", ran.out, re.M)
    assert sorted(headings) == ["default of billing", "default of shop", "reports"]
    found = as_json(run("history", "--runtime-dir", str(path), "--json").out)["guards"]
    assert sorted((each["guard"], each["database"]) for each in found) == [
        ("default", "billing"),
        ("default", "shop"),
        ("reports", "shop"),
    ]


@pytest.mark.parametrize("columns", ["40", "80", "100", "150"])
def test_it_fits(run: Run, folder: Path, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    ran = run("history", "--runtime-dir", str(folder))
    assert max(map(len, ran.out.splitlines())) <= int(columns)


def test_it_needs_no_unicode_and_no_driver(folder: Path) -> None:
    ran = elsewhere(
        "psycopg,psycopg_pool,opentelemetry",
        *("history", "--runtime-dir", str(folder)),
        PYTHONIOENCODING="ascii",
        TERM="dumb",
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"    16 +" in ran.stdout
    assert b"?" not in ran.stdout


def test_less_than_a_day_is_said(run: Run, settled: Path) -> None:
    ran = run("history", "--runtime-dir", str(settled), "--guard", "reports")
    told = " ".join(ran.out.split())
    known = r"(2 h 5\d min|3 h)"  # minutes may end meanwhile
    assert re.search(f"100 % of the minutes of the last {known}; max_size 3; budget 3.", told)
    assert re.search(f"of the last 7 days, {known} are known, less than a day: too little", told)


def test_what_is_missing_is_said(run: Run, tmp_path: Path) -> None:
    past = until_now(5 * DAY)
    for at in range(now() - 2 * DAY, now() - DAY):
        del past[at]
    fill(tmp_path / "run", past)
    told = " ".join(run("history", "--runtime-dir", str(tmp_path / "run")).out.split())
    assert re.search(r"of the known minutes .5,7[56]\d. of the last (5 days|4 days 23 h)", told)
    assert "of the last 7 days, 4 days are known: in the others, nothing ran" in told or (
        "of the last 7 days, 3 days 23 h are known: in the others, nothing ran" in told
    )


def test_days_and_guard_choose(run: Run, folder: Path) -> None:
    ran = run("history", "--runtime-dir", str(folder), "--days", "1", "--guard", "reports")
    assert ran.out.startswith("guard reports: the last 24 h")
    assert "guard default" not in ran.out


def test_guards_come_one_after_the_other_with_one_legend(run: Run, folder: Path) -> None:
    ran = run("history", "--runtime-dir", str(folder))
    assert re.findall("^guard (.*):", ran.out, re.M) == ["default", "reports"]
    assert ran.out.count("the most connections lent at once") == 1


def test_a_guard_of_which_nothing_was_recorded_lately_is_named(run: Run, tmp_path: Path) -> None:
    fill(tmp_path / "run", MadeUp({now() - 20 * DAY: minute(3)}))
    ran = run("history", "--runtime-dir", str(tmp_path / "run"))
    assert ran.status == 0
    assert "nothing is recorded of that time" in ran.out
    assert "legend" not in ran.out
    assert "axis" not in ran.out
    later = run("history", "--runtime-dir", str(tmp_path / "run"), "--days", "21")
    assert "100 % of the known minutes (1) of the last 19 days 23 h" in " ".join(later.out.split())
    assert "3 lent at once in one worker" in later.out


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("zone")
def test_the_clock_is_that_of_the_place(run: Run, folder: Path) -> None:
    """The incident of 14:00, UTC, stands at 19:45 in Nepal."""
    ran = run("history", "--runtime-dir", str(folder), "--guard", "default")
    [line] = [line for line in ran.out.splitlines() if line.startswith("created ")]
    assert line.rstrip().index("+") == 8 + (19 * 60 + 45) // 20


# --- the data


def test_every_minute_that_is_known_is_in_the_json(run: Run, settled: Path) -> None:
    ran = run("history", "--runtime-dir", str(settled), "--json")
    told = as_json(ran.out)
    assert (told["version"], told["days"], told["every_minutes"]) == (1, 7, 1)
    minutes = guard_of(ran.out)["minutes"]
    made = until_now()
    assert len(minutes) in (7 * DAY, 7 * DAY - 1)
    for each in minutes:
        known = made.get(each["at"] // 60)
        if known is not None:
            assert each["one"] == known.one
            assert (each["waiting"], each["created"]) == (known.waiting, known.created)
            assert each["level"] == known.level
    assert guard_of(ran.out)["numbers"]["floor"] == 13
    assert len(guard_of(ran.out, "reports")["minutes"]) in (3 * HOUR - 1, 3 * HOUR)


def test_quarters_of_an_hour_lose_nothing(run: Run, settled: Path) -> None:
    ran = run("history", "--runtime-dir", str(settled), "--json", "--every", "15")
    minutes = guard_of(ran.out)["minutes"]
    assert len(minutes) in (7 * DAY // 15, 7 * DAY // 15 + 1)
    assert all(each["at"] % 900 == 0 for each in minutes)
    assert sum(each["created"] for each in minutes) == 160
    assert max(each["one"] for each in minutes) == 31


# --- the page


class Page(HTMLParser):
    """What a page is made of. Raises where an element is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else(run: Run, folder: Path, tmp_path: Path) -> None:
    ran = run("history", "--runtime-dir", str(folder), "--html", str(tmp_path / "page.html"))
    assert (ran.status, ran.out) == (0, f"written: {tmp_path / 'page.html'}\n")
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.seen}
    assert not {"src", "href", "onload"} & {name for _, given in page.seen for name in given}
    assert re.findall(r"url\(([^)]*)\)", text) == ["#stripes"]
    assert "prefers-color-scheme: dark" in text
    plots = [given for _, given in page.seen if given.get("role") == "img"]
    assert len(plots) >= 9
    assert any("160 created while a request waited" in str(given["aria-label"]) for given in plots)
    assert text.count('id="stripes"') == 1
    assert "Floor 13 would have covered 99.9 %" in text


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a\x1b[2Jb\nc", 'x" onload="y'])
def test_a_guard_may_have_any_name(run: Run, tmp_path: Path, name: str) -> None:
    fill(tmp_path / "run", MadeUp({now() - 4: minute(3)}), name)
    where = ("--runtime-dir", str(tmp_path / "run"))
    ran = run("history", *where)
    assert ran.status == 0
    assert "\x1b" not in ran.out
    assert f"guard {escaped(name)}: the last" in " ".join(ran.out.split())
    run("history", *where, "--html", str(tmp_path / "page.html"))
    page = Page((tmp_path / "page.html").read_text())
    assert "script" not in {tag for tag, _ in page.seen}
    assert "onload" not in {key for _, given in page.seen for key in given}
    assert guard_of(run("history", *where, "--json").out, name)["minutes"]
    assert "\x1b" not in run(*PLAN, "--history", *where).out
    wrong = run("history", *where, "--guard", "another")
    assert wrong.status == 1
    assert "\x1b" not in wrong.err


def test_a_page_that_cannot_be_written_is_one_line(run: Run, folder: Path) -> None:
    ran = run("history", "--runtime-dir", str(folder), "--html", "/nowhere/page.html")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("poolguard: cannot write /nowhere/page.html: the folder /nowhere ")


# --- where there is nothing


def test_no_folder_is_said_and_none_is_made(run: Run, tmp_path: Path) -> None:
    ran = run("history", "--runtime-dir", str(tmp_path / "run"))
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"poolguard: there is no runtime folder {tmp_path / 'run'}, so ")
    assert "Workers that run record there each minute" in ran.err
    assert not (tmp_path / "run").exists()


def test_a_folder_without_history_is_said(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir(0o700)
    monkeypatch.setenv("POOLGUARD_RUNTIME_DIR", str(tmp_path / "run"))
    for command in (("history",), ("history", "--json"), (*PLAN, "--history")):
        ran = run(*command)
        assert (ran.status, ran.out) == (1, "")
        assert "nothing is recorded in the runtime folder" in ran.err
    assert os.listdir(tmp_path / "run") == []


def test_history_that_is_off_is_said(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POOLGUARD_HISTORY", "off")
    ran = run("history", "--runtime-dir", str(tmp_path))
    assert (ran.status, ran.out) == (1, "")
    assert 'yet: POOLGUARD_HISTORY is "off". Leave it out' in ran.err


def test_a_folder_that_others_may_enter_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(0o755)
    (tmp_path / "run").chmod(0o755)
    ran = run("history", "--runtime-dir", str(tmp_path / "run"))
    assert (ran.status, ran.out) == (1, "")
    assert "cannot be trusted: others may enter it" in ran.err


def test_a_name_that_no_guard_has_is_told_the_names(run: Run, folder: Path) -> None:
    ran = run("history", "--runtime-dir", str(folder), "--guard", "defualt")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.endswith("--guard may be one of default, reports\n")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--days", "0"), "argument --days: '0' is no whole number from 1"),
        (("--days", "36"), f"argument --days: 36 days: no more than {KEPT // DAY} are kept"),
        (("--every", "15"), "--every says how fine the JSON is: add --json"),
        (("--json", "--every", "7"), "argument --every: 7 is none of 1, 5, 10, 15, 20, 30 and 60"),
        (("--json", "--html", "x"), "--html writes a page and --json prints data: drop one"),
        (("--runtime-dir", ""), "argument --runtime-dir: '' is no folder"),
    ],
)
def test_what_makes_no_sense_is_one_line(run: Run, given: tuple[str, ...], said: str) -> None:
    ran = run("history", *given)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(f"poolguard history: {said}")
    assert ran.err.endswith("See poolguard history --help\n")


# --- beside the plan


def test_the_plan_tells_which_numbers_would_have_sufficed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a Sunday at noon: what is estimated depends a little on where the week's edge falls."""
    noon = 60.0 * (MONDAY + 6 * DAY + 12 * HOUR)
    monkeypatch.setattr(time, "time", lambda: noon)
    monkeypatch.setattr("poolguard.cli.history_files.SETTLED", 0.0)
    fill(tmp_path / "run", until_now())
    ran = run(*PLAN, "--instances", "3", "--history", "--runtime-dir", str(tmp_path / "run"))
    assert (ran.status, ran.err) == (0, "")
    told = " ".join(ran.out.split())
    assert "history of guard default floor 13 would have covered 99.9 % of the " in told
    assert "max_size 31; budget 93 (3 × 31)" in told
    assert "the floor of this plan, 3, would have been too low in 5,0" in told
    assert "A floor of 13 in 12 workers needs a budget of 156, and this plan has 90" in told
    assert re.search(r"^ +12 +1?1\d +1.1 % +about 23$", ran.out, re.M)
    assert ran.out.index("history of guard") < ran.out.index("arithmetic")


def test_the_plan_for_machines_has_them_too(run: Run, settled: Path) -> None:
    where = ("--runtime-dir", str(settled), "--guard", "reports")
    [found] = as_json(run(*PLAN, "--json", "--history", "2", *where).out)["history"]
    assert (found["guard"], found["days"]) == ("reports", 2)
    assert (found["numbers"]["floor"], found["numbers"]["max_size"]) == (3, 3)
    assert found["planned"] == {
        "floor": 8,
        "minutes_beyond": 0,
        "created_while_waiting_estimate": 0,
    }
    assert as_json(run(*PLAN, "--json").out)["history"] is None


def test_whose_history_is_said_with_history_only(run: Run) -> None:
    ran = run(*PLAN, "--guard", "reports")
    assert (ran.status, ran.out) == (2, "")
    assert "--guard says whose history to read: add --history" in ran.err
