"""The README says what is so: its table of settings, its commands, its links to names."""

from __future__ import annotations

import re
from pathlib import Path
from time import time

import pytest

import poolguard
from poolguard.cli.workers import report
from poolguard.settings import DESCRIPTIONS, Settings
from tests.cli.test_workers import worker

README = (Path(__file__).parent.parent / "README.md").read_text()


def settings_rows() -> list[str]:
    """The table's rows, from the settings themselves."""
    defaults = Settings()
    rows = []
    for name, meaning in DESCRIPTIONS.items():
        value = getattr(defaults, name)
        shown = "none" if value is None else f"{value:g}" if isinstance(value, float) else value
        rows.append(f"| `{name}` | `{shown}` | {meaning} |")
    return rows


def test_the_table_of_settings_is_that_of_the_code() -> None:
    """Every setting, its default and its meaning, in the code's order."""
    found = re.search(r"<!-- settings:begin -->\n(.*?)<!-- settings:end -->", README, re.DOTALL)
    assert found is not None
    assert found[1].splitlines() == settings_rows()


@pytest.mark.parametrize("mark", ["ci:demo", "ci:tests"])
def test_each_command_is_a_single_line_that_makes_its_own_environment(mark: str) -> None:
    """What .ci/run takes from the README is there, and needs nothing before it."""
    found = re.search(rf"<!-- {mark} -->\n```sh\n(.*?)\n```", README, re.DOTALL)
    assert found is not None
    assert "\n" not in found[1]
    assert found[1].startswith("python3 -m venv .venv && ")


def test_the_demos_output_is_what_it_promises() -> None:
    """What was pasted is a whole run: at most a third, and nothing created outside the burst."""
    found = re.search(
        r"<!-- demo:begin -->\n```text\n(.*?)```\n<!-- demo:end -->", README, re.DOTALL
    )
    assert found is not None
    verdict = re.search(
        r"poolguard's slowest request took .*?: ([\d.]+) times\s+as\s+long", found[1]
    )
    assert verdict is not None
    assert float(verdict[1]) >= 3
    assert re.search(r"of these outside the burst +\d+ +0$", found[1], re.MULTILINE)
    for words in ("acquired: a request", "waited: a request", "created: a request", "traffic  "):
        assert words in found[1]


def test_the_status_that_is_shown_has_the_columns_of_the_code() -> None:
    found = re.search(r"<!-- status:begin -->\n```text\n(.*?)```", README, re.DOTALL)
    assert found is not None
    _, heads, row, *_ = found[1].splitlines()
    told = report([worker(8567)], time(), runtime_dir=Path("/run/shop"), width=None)
    assert heads.split() == told[0].split()
    assert len(row.split()) == len(heads.split())


def test_the_traces_output_is_what_it_promises() -> None:
    """What was pasted has outcomes, routes and a tree."""
    found = re.search(
        r"<!-- trace:begin -->\n```text\n(.*?)```\n<!-- trace:end -->", README, re.DOTALL
    )
    assert found is not None
    for words in ("created  ", "Waiting for a connection took", "route  ", "└─ pool.acquire"):
        assert words in found[1]


def test_the_public_names_exist() -> None:
    """Each ``poolguard.Name`` that the README mentions can be imported."""
    names = set(re.findall(r"\bpoolguard\.([A-Z]\w+|connection|aconnection|guard)\b", README))
    assert names
    assert names <= set(poolguard.__all__)
    for name in names:
        assert getattr(poolguard, name) is not None
