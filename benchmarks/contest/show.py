"""Shows the tables of a benchmark's parts one after the other, and gives back plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..table import Progress, Table

__all__ = ["show"]


def show(name: str, parts: Mapping[str, Callable[[Progress], Table]]) -> dict[str, object]:
    """Have each part measured and print its table; says what was missed, returns all tables."""
    progress = Progress()
    tables: dict[str, object] = {}
    missed: list[str] = []
    for part, measure in parts.items():
        progress.part = f"{name}.{part}"
        table = measure(progress)
        progress.clear()
        print(f"\n{table}", flush=True)
        tables[part] = table.as_json()
        missed += [f"{part} ({row.who})" for row in table.rows if row.missed]
    print(f"\nmissed: {', '.join(missed)}" if missed else "\nall goals met", flush=True)
    return {"parts": tables}
