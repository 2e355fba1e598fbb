"""``poolguard demo``: an ordinary pool and poolguard under the same traffic, on real parts."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import LabError
from ..util.escape import as_json

if TYPE_CHECKING:
    from rich.console import Console

    from ..lab.contest import Progress

__all__ = ["add_to"]

OTLP_PATH = "/v1/traces"
"""Where OTLP/HTTP takes traces, unless the URL says otherwise (OTLP specification 1.x)."""


def add_to(commands: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "demo",
        help="an ordinary pool and poolguard under the same traffic, on a private PostgreSQL",
        description="Starts a private PostgreSQL, makes connecting as slow as over a network, and "
        "runs the same small application under real gunicorn and the same traffic twice: with an "
        "ordinary psycopg_pool, then with poolguard. Takes about a minute and leaves nothing "
        "behind.",
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="a shorter run of half a minute")
    parser.add_argument("--html", metavar="FILE", type=Path, help="also write it as one web page")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write it as JSON")
    parser.add_argument(
        "--otlp",
        metavar="URL",
        type=_otlp_url,
        help=f"also send poolguard's spans to a tracing backend, by OTLP over HTTP "
        f"(http://localhost:4318; {OTLP_PATH} is added where the URL has no path)",
    )
    parser.add_argument(
        "--port",
        metavar="N",
        type=_port,
        default=0,
        help="the port that gunicorn listens on, on 127.0.0.1; by default a free one",
    )
    parser.set_defaults(run=_run, parser=parser)


def _run(options: argparse.Namespace) -> int:
    try:
        from rich.console import Console
    except ImportError:
        raise LabError("the demo needs more: pip install 'gunicorn-poolguard[demo]'") from None
    from ..lab.contest import compare
    from ..lab.story import FULL, QUICK
    from .report import html, machine, terminal, write

    files = [path for path in (options.html, options.json) if path is not None]
    for path in files:
        _insist_writable(path)
    if options.otlp:
        _insist_reachable(options.otlp)
    console = Console(highlight=False)
    with _progress(console) as progress:
        comparison = compare(
            QUICK if options.quick else FULL,
            port=options.port,
            otlp=options.otlp,
            progress=progress,
        )
    terminal.render(comparison, console)
    if options.html:
        write(options.html, html.page(comparison))
    if options.json:
        write(options.json, as_json(machine.to_json(comparison), indent=1) + "\n")
    for path in files:
        console.print(f"written: {path}", markup=False)
    if options.otlp:
        console.print(f"spans sent to: {options.otlp}", markup=False)
    return 0


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    """Shows progress: as a live bar on a terminal, elsewhere as a line for each new stage."""
    if not console.is_terminal:
        said = ""

        def say(what: str, part: float) -> None:
            nonlocal said
            if what != said:
                said = what
                console.print(f"{part:4.0%}  {what}", markup=False)

        yield say
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:3.0f} %", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=5) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda what, part: bar.update(task, description=what, completed=part)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: name one from 1 to 65535")
    return int(text)


def _otlp_url(text: str) -> str:
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        url = urlsplit("")
    if url.scheme not in ("http", "https") or not url.hostname:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no URL of a tracing backend: give one like http://localhost:4318"
        )
    return url.geturl() if url.path.strip("/") else url._replace(path=OTLP_PATH).geturl()


def _insist_writable(path: Path) -> None:
    """Raise LabError for a file that cannot be written now, and not after a minute of work."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise LabError(f"cannot write {path}: there is no folder {folder}. Make it first")
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise LabError(f"cannot write {path}: it is a folder, or not yours. Name another file")


def _insist_reachable(url: str) -> None:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=3).close()
    except OSError as error:
        raise LabError(
            f"nothing answers at {parts.hostname}:{port} ({error.strerror or error}): start the "
            f"tracing backend first, or leave --otlp out"
        ) from None
