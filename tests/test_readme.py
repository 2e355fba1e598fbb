"""The README and the texts it links to say what is so: snippets run, tables and links are right."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path
from time import time
from typing import get_args

import pytest

import poolguard
from poolguard.cli.status_text import report
from poolguard.history.expected import Reason
from poolguard.pool.events import CloseReason, CreateReason, Outcome
from poolguard.settings import DESCRIPTIONS, VARIABLES, Settings
from poolguard.telemetry.metrics import INSTRUMENTS
from tests.cli.test_status_text import worker

from .test_examples import get, serving

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TEXTS = [
    ROOT / "README.md",
    *sorted((ROOT / ".github").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
LONGEST = 300
"""Lines of the README: it is read from its beginning to its end."""


def block(text: str, mark: str, language: str) -> str:
    """The code that stands behind a mark, such as ``<!-- ci:demo -->``."""
    found = re.search(rf"<!-- {re.escape(mark)} -->\n```{language}\n(.*?)```\n", text, re.DOTALL)
    assert found is not None, f"no block {mark}"
    return found[1]


def example(name: str) -> str:
    return (ROOT / "examples" / name / "README.md").read_text()


def settings_rows() -> list[str]:
    """The table's rows, from the settings themselves."""
    defaults = Settings()
    rows = []
    for name, meaning in DESCRIPTIONS.items():
        value = getattr(defaults, name)
        shown = "none" if value is None else f"{value:g}" if isinstance(value, float) else value
        rows.append(f"| `{name}` | `{shown}` | {meaning} |")
    return rows


# -- the README --------------------------------------------------------------------------------


def test_it_is_read_in_one_sitting() -> None:
    assert len(README.splitlines()) <= LONGEST


def test_the_table_of_settings_is_that_of_the_code() -> None:
    """Every setting, its default and its meaning, in the code's order."""
    found = re.search(r"<!-- settings:begin -->\n(.*?)<!-- settings:end -->", README, re.DOTALL)
    assert found is not None
    assert found[1].splitlines() == settings_rows()


@pytest.mark.parametrize("mark", ["ci:demo", "ci:tests"])
def test_each_command_is_a_single_line_that_makes_its_own_environment(mark: str) -> None:
    """What .ci/run takes from the README is there, and needs nothing before it."""
    [line] = block(README, mark, "sh").splitlines()
    assert line.startswith("python3 -m venv .venv && ")


def test_the_demos_output_is_what_it_promises() -> None:
    """What was pasted is of a whole run: at most a third, and nothing created outside the burst."""
    printed = block(README, "demo:begin", "text")
    verdict = re.search(
        r"poolguard's slowest request took .*?: ([\d.]+) times\s+as\s+long", printed
    )
    assert verdict is not None
    assert float(verdict[1]) >= 3
    assert re.search(r"of these outside the burst +\d+ +0$", printed, re.MULTILINE)
    assert re.search(r"failed +0 +0$", printed, re.MULTILINE)


def test_the_two_snippets_run_as_they_stand(dsn: str, tmp_path: Path) -> None:
    """As the files that they say they are, under gunicorn; the first request creates nothing."""
    for name in ("gunicorn.conf.py", "app.py"):
        snippet = block(README, f"snippet:{name}", "python")
        assert snippet.startswith(f"# {name}")
        (tmp_path / name).write_text(snippet)
    environ = {
        "DATABASE_URL": dsn,
        "POOLGUARD_RUNTIME_DIR": str(tmp_path / "run"),
        "POOLGUARD_READY_PATH": "/ready",
    }
    with serving(tmp_path, **environ) as port:
        assert re.match(rb"\d{4}-\d\d-\d\d ", get(port, "/")[1])
        status, body = get(port, "/ready")
    assert status == 200
    assert json.loads(body)["guards"][0]["created"].keys() == {"warmup"}


LINES = {
    '"ENGINE": "poolguard.django",': "django_app/config/settings.py",
    'engine = create_engine(url, plugins=["poolguard"])': "fastapi_app/notes/database.py",
    'app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"plugins": ["poolguard"]}': (
        "flask_app/library/__init__.py"
    ),
    "async with poolguard.aconnection() as conn:": "starlette_app/app.py",
}
"""What each framework's users add, and the example that has it, which is run under gunicorn."""


def test_the_line_that_each_framework_takes_is_in_an_example_that_runs() -> None:
    diff = block(README, "diff:frameworks", "diff")
    added = [line[1:].strip() for line in diff.splitlines() if line.startswith("+")]
    assert added == list(LINES)
    for line, path in LINES.items():
        [code] = re.findall(r"\{.*\}|plugins=.*\]|async with.*|.*ENGINE.*", line)
        assert code in (ROOT / "examples" / path).read_text()


WRAPPED = {
    "FastAPI": "from fastapi import FastAPI\napp = FastAPI()\n{}",
    "Starlette": "from starlette.applications import Starlette\napp = Starlette()\n{}",
    "ASGI": "async def app(scope, receive, send): ...\n{}",
    "WSGI": "def app(environ, start_response): ...\n{}",
}
"""An application of each kind, and where the line stands that wraps it."""


@pytest.mark.parametrize("kind", WRAPPED)
def test_an_application_takes_the_middleware_as_it_is_said(kind: str) -> None:
    code = "app = PoolGuardMiddleware(app)"
    if kind in ("FastAPI", "Starlette"):
        code = "app.add_middleware(PoolGuardMiddleware)"
    assert f"`{code}`" in README
    names: dict[str, object] = {}
    home = "wsgi" if kind == "WSGI" else "asgi"
    text = f"from poolguard.{home} import PoolGuardMiddleware\n{WRAPPED[kind].format(code)}"
    exec(text, names)
    assert "PoolGuardMiddleware" in found_in(names["app"])


def found_in(app: object) -> list[str]:
    """The classes around an application, and those that a framework keeps to put around it."""
    further_in = [each.cls.__name__ for each in getattr(app, "user_middleware", ())]
    return [type(app).__name__, *further_in]


def test_the_public_names_exist() -> None:
    """Each ``poolguard.Name`` that the README mentions can be imported."""
    names = set(re.findall(r"\bpoolguard\.([A-Z]\w+|connection|aconnection|guard)\b", README))
    assert names
    assert names <= set(poolguard.__all__)
    for name in names:
        assert getattr(poolguard, name) is not None


# -- all texts ---------------------------------------------------------------------------------


@cache
def anchors(path: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_link_leads_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if link.startswith("https://"):
            continue
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target / "README.md" if target.is_dir() else target), link


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_snippet_is_python_and_names_settings_that_there_are(path: Path) -> None:
    text = path.read_text()
    for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        ast.parse(snippet)
    assert set(re.findall(r"POOLGUARD_[A-Z_]+[A-Z]", text)) <= {
        *VARIABLES.values(),
        "POOLGUARD_PG_BIN",
    }


def test_each_file_that_contributors_are_sent_to_is_there() -> None:
    text = (ROOT / ".github/CONTRIBUTING.md").read_text()
    paths = re.findall(r"((?:poolguard|tests|examples)/[\w/.]*|README\.md|pyproject\.toml)`", text)
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_each_room_is_told_to_contributors() -> None:
    """Those of the table that are there."""
    text = (ROOT / ".github/CONTRIBUTING.md").read_text()
    rooms = {each.name for each in (ROOT / "poolguard").iterdir() if any(each.glob("*.py"))}
    assert {room for room in rooms if f"| `poolguard/{room}/` |" not in text} == set()


# -- what the examples show --------------------------------------------------------------------


def test_the_status_that_is_shown_has_the_columns_of_the_code() -> None:
    _, heads, row, *_ = block(example("production"), "status:begin", "text").splitlines()
    told = report([worker(8567)], time(), runtime_dir=Path("/run/shop"), width=None)
    assert heads.split() == told[0].split()
    assert len(row.split()) == len(heads.split())


def test_the_traces_output_is_what_it_promises() -> None:
    """What was pasted has outcomes, routes and a tree."""
    printed = block(example("tracing"), "trace:begin", "text")
    for words in ("created  ", "Waiting for a connection took", "route  ", "└─ pool.acquire"):
        assert words in printed
    drawn = block(example("tracing"), "spans:begin", "text")
    for words in ("acquired: a request", "waited: a request", "created: a request"):
        assert words in drawn


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    """Every metric with its kind, its unit and what tells its series apart, in the code's order."""
    values = {
        "db.client.connection.state": ("idle", "used"),
        "poolguard.acquire.outcome": get_args(Outcome),
        "poolguard.create.reason": get_args(CreateReason),
        "poolguard.close.reason": get_args(CloseReason),
        "poolguard.expected.reason": get_args(Reason),
    }
    found = re.search(
        r"<!-- metrics:begin -->\n(.*?)<!-- metrics:end -->", example("metrics"), re.S
    )
    assert found is not None
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")] for row in found[1].splitlines()[2:]
    ]
    for (name, kind, meaning), each in zip(rows, INSTRUMENTS, strict=True):
        assert name == f"`{each.name}`"
        assert kind == each.kind + (", s" if each.unit == "s" else "")
        if each.attribute is not None:
            shown = ", ".join(f"`{value}`" for value in values[each.attribute])
            assert meaning.endswith(f"`{each.attribute}`: {shown}")
