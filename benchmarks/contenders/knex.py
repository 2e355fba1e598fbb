"""knex and tarn.js: installed from npm at the first run, into a folder that git ignores."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

__all__ = ["SERVER", "install", "versions"]

FOLDER = Path(__file__).parents[1] / "knex"
SERVER = FOLDER / "server.mjs"
INSTALL = ("npm", "install", "--omit=dev", "--no-package-lock", "--no-audit", "--no-fund")
WITHIN = 300.0


@cache
def install() -> str | None:
    """Have its packages in place; why they are not, where they cannot be had."""
    if all((FOLDER / "node_modules" / name / "package.json").exists() for name in _wanted()):
        return None
    print(f"knex: {' '.join(INSTALL)}, in {FOLDER}, this once", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(
            INSTALL, cwd=FOLDER, check=False, capture_output=True, text=True, timeout=WITHIN
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"npm could not install its packages ({error})"
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return f"npm could not install its packages ({lines[0] if lines else 'it said nothing'})"
    return None


def versions() -> dict[str, str]:
    """The packages that are there, with their versions."""
    found = {}
    for name in (*_wanted(), "tarn"):
        description = FOLDER / "node_modules" / name / "package.json"
        if description.exists():
            found[name] = str(json.loads(description.read_text())["version"])
    return found


def _wanted() -> list[str]:
    return list(json.loads((FOLDER / "package.json").read_text())["dependencies"])
