"""What a run of the benchmarks leaves in its folder: figures, tables, pictures, and how they came.

Nothing here is edited by hand, and what is quoted elsewhere is quoted from here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .environment import environment
from .markdown import markdown

__all__ = ["write"]


def write(folder: Path, commands: Sequence[str], measured: Mapping[str, object]) -> list[Path]:
    """Write all into *folder*, which is made; returns the files.

    :param commands: what was typed, as a shell would take it.
    :param measured: by benchmark, what its ``run`` has returned: plain data, and under ``pictures``
        SVG drawings by name.
    """
    figures = {name: value for name, value in measured.items() if isinstance(value, dict)}
    drawings: dict[str, str] = {}
    for value in figures.values():
        drawings |= value.get("pictures", {})
    plain = {name: _without(value, "pictures") for name, value in figures.items()}
    where = environment()
    result = {"commands": list(commands), "environment": where, "measured": plain}
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "results.json": json.dumps(result, indent=1, ensure_ascii=False) + "\n",
        "results.md": markdown(commands, where, plain, sorted(drawings)),
        **{f"{name}.svg": drawing for name, drawing in sorted(drawings.items())},
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files]


def _without(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: inner for key, inner in value.items() if key != name}
