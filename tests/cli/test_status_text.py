"""What ``poolguard status`` makes of statuses: table, budget, errors, rates, and what fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from poolguard.cli.status_table import Rates
from poolguard.cli.status_text import frame, report

NOW = 1_700_000_000.0
FOLDER = Path("/run/shop")


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """The width of the terminal that the tests run in must not matter."""
    monkeypatch.setenv("COLUMNS", "100")


def worker(pid: int, *, used: int = 0, **changed: Any) -> dict[str, Any]:
    """What a busy worker publishes, but for what is *changed*."""
    at = changed.get("at", NOW - 0.5)
    return {
        "name": "default",
        "pid": pid,
        "mode": "sync",
        "ready": True,
        "floor": 4,
        "max_size": 12,
        "idle": 4 - used,
        "used": used,
        "opening": 0,
        "waiting": 0,
        "acquires": {"acquired": 120, "waited": 3},
        "created": {"warmup": 4},
        "closed": {},
        "leaks": {},
        "warmup": {"asked": 4, "opened": 4, "seconds": 0.1},
        "last_error": None,
        "budget": {"capacity": 100, "budget": 90, "instance": 30, "in_use": 8},
        "worker_class": "gthread",
        "ledger": {"kind": "host", "name": "shop-0011223344556677"},
        "at": at,
        "due": at + 1,
        **changed,
    }


def budget(in_use: int, **changed: int | None) -> dict[str, int | None]:
    return {"capacity": 100, "budget": 90, "instance": 30, "in_use": in_use, **changed}


def plain(*statuses: dict[str, Any], width: int | None = None) -> str:
    lines = report(statuses, NOW, runtime_dir=FOLDER, width=width)
    return "".join(f"{line}\n" for line in lines)


def drawn(
    *statuses: dict[str, Any], size: tuple[int, int], rates: Rates | None = None
) -> list[str]:
    return frame(
        statuses, NOW, runtime_dir=FOLDER, rates=rates or Rates(), nothing="nothing", size=size
    )


def cells(text: str, row: int = 1) -> dict[str, str]:
    """A row of the table, by its heads; nothing in it may hold a blank."""
    lines = text.splitlines()
    return dict(zip(lines[0].split(), lines[row].split(), strict=True))


def test_all_of_it() -> None:
    failed = {"acquired": 7, "created": 1, "timeout": 2, "rejected": 3, "error": 4}
    away = "connection failed: refused"
    text = plain(
        worker(101, used=1),
        worker(102, ready=False, idle=0, opening=2, waiting=5, acquires=failed, last_error=away),
    )
    assert (
        text
        == """\
pid  class    ready  idle  used  opening  waiting  floor/max  acquired  waited  created  failed
101  gthread  yes       3     1        0        0       4/12       120       3        0       0
102  gthread  no        0     0        2        5       4/12         7       0        1       9

budget   shop: 8 of this instance's 30 slots in use, budget 90, capacity 100
error    102: connection failed: refused
folder   /run/shop
"""
    )


def test_what_is_not_known_yet() -> None:
    nothing = budget(0, capacity=None, budget=None, instance=None)
    early = worker(
        9, ready=False, floor=None, max_size=None, acquires={}, budget=nothing, ledger=None
    )
    text = plain({**early, "worker_class": None})
    assert cells(text)["class"] == "-"
    assert cells(text)["floor/max"] == "-"
    assert "budget   default: not known yet\n" in text
    assert "budget   shop: not known yet, slots in use: 1\n" in plain(
        worker(9, budget={**nothing, "in_use": 1})
    )
    assert "not known" not in plain(early, worker(10))


@pytest.mark.parametrize(
    ("age", "state"),
    [(-3, "yes"), (4.9, "yes"), (12.7, "stalled 12 s"), (600, "stalled 10 min")],
)
def test_one_that_writes_no_more(age: float, state: str) -> None:
    row = plain(worker(1, at=NOW - age)).splitlines()[1]
    assert row.split("gthread  ")[1].startswith(f"{state}  ")


def test_one_that_rests_does_not_stall_until_its_next_status_is_overdue() -> None:
    assert "stalled" not in plain(worker(1, at=NOW - 14, due=NOW - 4))
    assert "stalled 16 s" in plain(worker(1, at=NOW - 16, due=NOW - 6))


def test_the_guard_is_named_where_it_is_not_the_default() -> None:
    assert "guard" not in plain(worker(1))
    text = plain(worker(1), worker(1, name="replica"))
    assert [cells(text, row)["guard"] for row in (1, 2)] == ["default", "replica"]


def test_a_class_that_is_named_by_its_place() -> None:
    text = plain(worker(1, worker_class="uvicorn_worker.UvicornWorker"))
    assert cells(text)["class"] == "UvicornWorker"


# -- the budget


def budgets(*statuses: dict[str, Any]) -> list[str]:
    lines = plain(*statuses).splitlines()
    return [line[9:] for line in lines[len(statuses) + 2 : -1]]


def test_who_else_holds_connections_where_there_is_no_room_for_more() -> None:
    others = [
        {"role": "cron", "application": "", "connections": 25},
        {"role": "shop", "application": "psql\x1b[2J", "connections": 3},
    ]
    told = budgets(worker(1), worker(2, budget={**budget(7), "others": others}))
    assert " ".join("".join(told).split()).endswith(
        "the server has room for no more: 25 of cron, 3 of shop (psql\\x1b[2J)"
    )


def test_a_shared_ledger_is_told_by_who_wrote_last() -> None:
    old, new = worker(1, at=NOW - 3, budget=budget(5)), worker(2, budget=budget(7))
    for statuses in ([old, new], [new, old]):
        assert budgets(*statuses) == [
            "shop: 7 of this instance's 30 slots in use, budget 90, capacity 100"
        ]


FLEET = {
    **{"hosts": 3, "budget": 40, "granted": 25, "used": 20, "needed": 2},
    **{"guaranteed": 8, "fair": 12, "unreachable": None},
}


def of_fleet(fleet: object) -> str:
    """What is said of the budget by a worker that tells so of its fleet."""
    ledger = {"kind": "fleet", "name": "shop-0011223344556677"}
    said: dict[str, Any] = {**budget(7, instance=36), "fleet": fleet}
    return " ".join(" ".join(budgets(worker(1, ledger=ledger, budget=said))).split())


def test_a_hosts_part_is_told_beside_the_whole_fleets() -> None:
    host = "shop: 7 of this instance's 36 slots in use, budget 90, capacity 100"
    assert of_fleet(FLEET) == (
        f"{host}; fleet of 3 hosts: 20 of 40 used, 25 leased, 2 more needed; 8 are guaranteed to "
        f"this one, 12 its fair share"
    )
    assert of_fleet({**FLEET, "hosts": 1}).startswith(f"{host}; fleet of 1 host: 20 of 40")
    assert of_fleet({**FLEET, "unreachable": "refused\n\x1b[2J"}) == (
        f"{host}; the fleet's ledger cannot be used, and no connection is opened until it can: "
        f"refused \\x1b[2J"
    )


@pytest.mark.parametrize(
    ("fleet", "told"),
    [
        ({**FLEET, "budget": 0}, "; the fleet is not known yet"),
        ({**FLEET, "fair": "x"}, "; the fleet is not known yet"),
        ({"hosts": 3}, "; the fleet is not known yet"),
        ([], ""),
        ("3 hosts", ""),
        (None, ""),
    ],
)
def test_what_another_version_says_of_its_fleet(fleet: object, told: str) -> None:
    """It may be anything."""
    assert of_fleet(fleet).endswith(f"capacity 100{told}")


def test_static_ledgers_are_added_up() -> None:
    ledger = {"kind": "static", "name": "shop-0011223344556677"}
    statuses = [worker(pid, ledger=ledger, budget=budget(pid)) for pid in (2, 3)]
    assert budgets(*statuses) == [
        "shop: 5 of this instance's 30 slots in use, budget 90, capacity 100"
    ]


def test_the_smallest_share_rules() -> None:
    statuses = worker(1, budget=budget(6, instance=20)), worker(2, budget=budget(6))
    assert budgets(*statuses)[0].startswith("shop: 6 of this instance's 20 slots in use")


def test_a_line_for_each_database() -> None:
    """Guards of one database share one, whatever their names; a capacity may be nobody's word."""
    events = {"kind": "host", "name": "events-0011223344556677"}
    assert budgets(
        worker(1),
        worker(1, name="reports"),
        worker(1, name="log", ledger=events, budget=budget(1, capacity=None)),
    ) == [
        "shop: 8 of this instance's 30 slots in use, budget 90, capacity 100",
        "events: 1 of this instance's 30 slots in use, budget 90",
    ]


def test_databases_of_one_name_on_two_servers() -> None:
    names = [
        line.partition(":")[0]
        for line in budgets(
            worker(1), worker(2, ledger={"kind": "host", "name": "shop-8899aabbccddeeff"})
        )
    ]
    assert names == ["shop-0011223344556677", "shop-8899aabbccddeeff"]


# -- the errors


def test_each_error_once_with_whose_it_is() -> None:
    text = plain(
        *(worker(pid, last_error="refused") for pid in (1, 2)),
        worker(2, name="replica", last_error="refused"),
        worker(3, last_error="gone"),
    )
    assert "error    1, 2: refused\n         3: gone\n" in text


def test_an_error_is_wrapped_and_moves_no_cursor() -> None:
    text = plain(worker(1, last_error="no\n \x1b[2Jway " + "on and " * 25), width=100)
    assert "error    1: no \\x1b[2Jway on and" in text
    assert "\n           on and" in text
    assert max(map(len, text.splitlines())) <= 100


# -- rates


def test_rates_are_by_the_workers_own_clocks() -> None:
    rates = Rates()
    first = worker(1, at=NOW - 2, acquires={"acquired": 10, "waited": 1})
    second = worker(1, at=NOW, acquires={"acquired": 15, "waited": 4, "created": 2})

    def now(status: dict[str, Any]) -> list[float | None]:
        rates.look([status])
        return [rates.of(status, name) for name in ("acquires", "waited", "created")]

    assert now(first) == [None, None, None]
    assert now(second) == [5.0, 1.5, 1.0]
    assert now(second) == [5.0, 1.5, 1.0]  # it has written nothing meanwhile
    assert now(worker(1, at=NOW + 1, acquires={})) == [0.0, 0.0, 0.0]  # opened anew


def test_rates_of_a_new_worker_are_not_known() -> None:
    rates = Rates()
    rates.look([worker(1, at=NOW - 2)])
    rates.look([worker(1, at=NOW - 1), worker(2, at=NOW - 1)])
    rows = drawn(worker(1, at=NOW - 1), worker(2, at=NOW - 1), size=(140, 24), rates=rates)[2:5]
    assert rows[0].split()[-4:] == ["acquires/s", "waited/s", "created/s", "failed"]
    assert [row.split()[-4:] for row in rows[1:]] == [["0.0"] * 3 + ["0"], ["-"] * 3 + ["0"]]
    rates.look([worker(2)])
    rates.look([worker(1), worker(2)])
    assert rates.of(worker(1), "acquires") is None


def test_rates_of_one_that_stalls_are_not_known() -> None:
    rates = Rates()
    stalled = worker(1, at=NOW - 9, acquires={"acquired": 500})
    rates.look([worker(1, at=NOW - 10, acquires={})])
    rates.look([stalled])
    assert rates.of(stalled, "acquires") == 500
    assert drawn(stalled, size=(140, 24), rates=rates)[3].split()[-4:-1] == ["-"] * 3


# -- what fits


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (100, set()),
        (90, set()),
        (80, {"class"}),
        (70, {"class", "floor/max"}),
        (62, {"class", "floor/max", "opening"}),
    ],
)
def test_a_narrow_terminal_has_fewer_columns(width: int, left_out: set[str]) -> None:
    whole = cells(plain(worker(1001))).keys()
    text = plain(worker(1001), width=width)
    assert whole - cells(text).keys() == left_out
    assert max(map(len, text.splitlines()[:2])) <= width


@pytest.mark.parametrize("size", [(80, 24), (100, 30), (40, 8), (20, 3), (1, 1), (300, 100)])
def test_a_frame_fits(size: tuple[int, int]) -> None:
    crowd = [worker(pid, last_error=f"{pid} " + "x" * 500) for pid in range(200)]
    for statuses in (crowd, crowd[:2], []):
        lines = drawn(*statuses, size=size)
        assert len(lines) <= size[1]
        assert max(map(len, lines)) <= size[0]


def test_a_low_terminal_says_how_many_there_are_more() -> None:
    crowd = [worker(pid) for pid in range(101, 151)]
    crowd[40].update(ready=False)
    crowd[41].update(at=NOW - 60, due=NOW - 59)
    lines = drawn(*crowd, size=(100, 15))
    assert lines[0].endswith("50 workers: 48 ready, 1 not ready, 1 stalled  (Ctrl-C ends)")
    assert [line.split()[0] for line in lines[2:11]] == ["pid", *map(str, range(101, 109))]
    assert lines[11:] == [
        "… and 42 more",
        "",
        "budget   shop: 8 of this instance's 30 slots in use, budget 90, capacity 100",
        "folder   /run/shop",
    ]


def test_many_errors_leave_room_for_workers() -> None:
    crowd = [worker(pid, last_error=f"error {pid}") for pid in range(101, 151)]
    lines = drawn(*crowd, size=(100, 20))
    assert sum(line.startswith("1") for line in lines[2:]) >= 5
    assert lines[-1].startswith("… and ")


def test_one_worker_and_none() -> None:
    assert "  1 worker: 1 ready  " in drawn(worker(1), worker(1, name="b"), size=(80, 24))[0]
    several = worker(1), worker(1, name="b", ready=False), worker(1, name="c", at=NOW - 9)
    assert "  1 worker: 1 not ready  " in drawn(*several[:2], size=(80, 24))[0]
    assert "  1 worker: 1 stalled  " in drawn(*several[::-1], size=(80, 24))[0]
    lines = drawn(size=(80, 24))
    assert "  0 workers  " in lines[0]
    assert lines[1:] == ["", "nothing"]


def test_one_that_leaves_is_told_from_one_that_is_not_ready() -> None:
    said = report(
        [worker(1, ready=False, leaving=True), worker(2, ready=False)],
        NOW,
        runtime_dir=FOLDER,
        width=None,
    )
    assert [line.split()[2] for line in said[1:3]] == ["leaving", "no"]


def test_what_is_kept_warm_above_the_floor_is_shown_with_its_reason() -> None:
    """Where any worker has more than that. What another version says otherwise is left out."""
    told = plain(
        worker(100, expected={"level": 9, "reason": "day"}),
        worker(101, expected={"level": 4, "reason": "floor"}),
        worker(102, expected={"level": 9, "reason": "\x1b[31m"}),
        worker(103),
        width=120,
    )
    head, *rows = told.splitlines()
    at = head.index("expected")
    shown = [row[at - 2 : at + 8].strip() for row in rows if row.lstrip()[:3].isdigit()]
    assert shown[:4] == ["9 (day)", "-", "-", "-"]
    assert "expected" not in plain(worker(100), width=120)
