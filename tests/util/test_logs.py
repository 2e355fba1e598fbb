"""What poolguard has to say is written, once, however the application configures logging."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import poolguard.asgi
import poolguard.wsgi

SCRIPT = """
import logging, logging.config, sys
from gunicorn.config import Config
from gunicorn.glogging import Logger
from poolguard.util.logs import logger

named = logging.getLogger("poolguard")
plain = {{"format": "theirs %(levelname)s %(message)s"}}
stderr = {{"class": "logging.StreamHandler", "formatter": "plain"}}
parts = {{"version": 1, "formatters": {{"plain": plain}}, "handlers": {{"stderr": stderr}}}}
ini = '''
[loggers]
keys=root
[handlers]
keys=stderr
[formatters]
keys=plain
[logger_root]
level=WARNING
handlers=stderr
[handler_stderr]
class=StreamHandler
args=()
formatter=plain
[formatter_plain]
format=theirs %(levelname)s %(message)s
'''

def configure(**more):
    logging.config.dictConfig(parts | more)

def configure_by_file():
    open(sys.argv[1], "w").write(ini)
    logging.config.fileConfig(sys.argv[1])

if {borrows}:
    logger.borrow(Logger(Config()).error_log)
{how}
logger.debug("a")
logger.info("b")
logger.warning("c")
logger.error("d")
"""

ROOT = 'configure(root={"level": "WARNING", "handlers": ["stderr"]})'
INCREMENTAL = 'configure(handlers={}, incremental=True, loggers={"poolguard": {"level": "ERROR"}})'


@pytest.mark.parametrize(
    ("how", "by_theirs"),
    [
        (ROOT, "cd"),
        ("configure_by_file()", "cd"),
        ('configure(root={"level": "INFO", "handlers": ["stderr"]})', "bcd"),
        ('configure(loggers={"poolguard": {"level": "ERROR", "handlers": ["stderr"]}})', "d"),
        (f'{ROOT}; named.setLevel("ERROR")', "d"),
        (f"{ROOT}; logging.disable(logging.WARNING)", "d"),
    ],
)
@pytest.mark.parametrize("borrows", [False, True], ids=["as imported", "under the hooks"])
def test_it_is_written_where_the_application_says(
    how: str, by_theirs: str, borrows: bool, tmp_path: object
) -> None:
    said = run(how, borrows, f"{tmp_path}/logging.ini")
    assert [line[-1] for line in said if line.startswith("theirs ")] == [*by_theirs]
    assert len(said) == len(by_theirs)


@pytest.mark.parametrize(
    ("how", "by_gunicorns"),
    [("", "bcd"), ("configure()", "bcd"), (INCREMENTAL, "d"), ('named.setLevel("ERROR")', "d")],
)
def test_it_is_written_where_gunicorn_writes_while_nobody_says(how: str, by_gunicorns: str) -> None:
    said = run(how, borrows=True)
    assert ["[" in line and line[-1] for line in said] == [*by_gunicorns]


def run(how: str, borrows: bool, *args: str) -> list[str]:
    """The lines of a process that configures logging so, and then logs at each level."""
    script = SCRIPT.format(how=how, borrows=borrows)
    ran = subprocess.run(
        [sys.executable, "-c", script, *args], capture_output=True, text=True, check=True
    )
    return ran.stderr.splitlines()


@pytest.mark.parametrize("door", [poolguard.asgi, poolguard.wsgi])
def test_what_is_not_ours_is_shown_by_its_name(door: Any) -> None:
    class Application:
        def __repr__(self) -> str:
            raise RuntimeError("s3cret")

    def application() -> None: ...

    shown = [repr(door.PoolGuardMiddleware(app)) for app in (Application(), application)]
    name = "test_what_is_not_ours_is_shown_by_its_name.<locals>"
    assert shown == [
        f"<PoolGuardMiddleware guard=None app={name}.Application>",
        f"<PoolGuardMiddleware guard=None app={name}.application>",
    ]
