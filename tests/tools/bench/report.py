"""Tables, and the files that hold them."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .children import ROOT
from .parts import Spread
from .yardstick import Yardstick, yardstick

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DESTINATION = "FIVESTAGE_BENCH_OUT"
OUT = Path(os.environ.get(DESTINATION) or ROOT / "docs" / "bench")
"""The directory of published figures; trials of the benchmarks themselves set another one."""


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a Markdown table; figures are aligned to the right."""
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max(len(row[n]) for row in [list(titles), *cells]) for n in range(len(titles))]
    right = [bool(cells) and all(_is_figure(row[n]) for row in cells) for n in range(len(titles))]

    def line(row: Sequence[str]) -> str:
        set_out = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        return f"| {' | '.join(set_out)} |"

    rule = [("-" * (w - 1) + ":") if to_right else "-" * w for w, to_right in zip(widths, right, strict=True)]
    return "\n".join([line(titles), f"| {' | '.join(rule)} |", *map(line, cells)])


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    return f"{cell:.1f}" if isinstance(cell, float) else str(cell)


def _is_figure(text: str) -> bool:
    return text in {"-", ""} or text.replace(".", "").replace("%", "").replace("-", "").isdecimal()


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the value below which this share lies; None when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None


def describe_machine(found: Sequence[Yardstick]) -> str:
    """Format what two fixed pieces of work cost on this machine, between the rounds."""
    rows = [
        ["a fixed loop in Python", Spread.of([one.python_ms for one in found]).text(2)],
        ["CRC-32 of 10 MiB", Spread.of([one.native_ms for one in found]).text(2)],
    ]
    return table(["the machine", "CPU ms"], rows)


def save(name: str, figures: Any, options: Any = None, yardsticks: Sequence[Yardstick] = ()) -> Path:
    """Write figures as JSON, with what they were measured with."""
    machine = {
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),  # others may have been at work too
        "python": platform.python_version(),
        "system": platform.system(),
        "yardsticks": [one._asdict() for one in (*yardsticks, yardstick())],
    }
    text = json.dumps({"machine": machine, "options": options, "figures": figures}, indent=1)
    return write(f"{name}.json", text + "\n")


def write(name: str, text: str) -> Path:
    """Write a file of docs/bench."""
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / name
    path.write_text(text, encoding="utf-8")
    return path
