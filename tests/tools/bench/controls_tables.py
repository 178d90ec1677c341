"""The gallery as tables, figures and a picture in docs/bench."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .controls_cells import TOLERATED, TROUBLE
from .controls_loads import BURST_WITHIN_S, LOADS, OF_USE_S
from .controls_run import COLUMNS, CONTROLS
from .controls_shapes import LIMIT_S, SHAPES, SLOTS
from .report import table, write

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .controls_cells import Cell

HOW = """\
{shapes} shapes of latency under {loads} loads, each with every control that learns switched off, on, and on
one at a time; {slots} slots, {limit:g} ms for a call, in virtual time (`make bench-controls`; seeds {seeds}).
Per cent of the queries: *in time*, answered within {of_use:g} ms of being asked; *waited*, for a slot,
longer than 1 ms, and what 99 of 100 queries waited less than; *rejected*, not started, or their node was not
called. The choice of nodes by health cannot be switched off: it is on in all columns.

On is *better* in {better} of {cells} cells and *worse* in {worse}; {tolerated:g} points are no difference.
Off answers less than {trouble:.0%} of what the capacity allows in {troubled} cells: on is better in {helped}.

![Answered in time with all controls on and off](controls.svg)
"""


def publish(cells: Sequence[Cell], seeds: str, *, write_files: bool = True) -> None:
    """Print the tables, and write them, their figures and the picture."""
    text = describe(cells, seeds)
    print(text)
    if not write_files:
        return
    from .controls_picture import draw_grid  # noqa: PLC0415 - matplotlib is for those who draw

    write("controls.md", text)
    figures = [one._asdict() for cell in cells for one in cell.columns.values()]
    write("controls.json", json.dumps({"options": {"seeds": seeds}, "figures": figures}, indent=1) + "\n")
    draw_grid(cells)


def describe(cells: Sequence[Cell], seeds: str) -> str:
    """The page: what was measured, the verdicts, all figures, the shapes and loads."""
    verdicts = [cell.verdict for cell in cells]
    troubled = [cell.verdict for cell in cells if cell.in_trouble]
    how = HOW.format(
        shapes=len({cell.shape for cell in cells}),
        loads=len({cell.load for cell in cells}),
        slots=SLOTS,
        limit=LIMIT_S * 1000,
        seeds=seeds.replace(",", ", "),
        of_use=OF_USE_S * 1000,
        better=verdicts.count("better"),
        worse=verdicts.count("worse"),
        cells=len(cells),
        tolerated=TOLERATED,
        troubled=len(troubled),
        trouble=TROUBLE,
        helped=troubled.count("better"),
    )
    parts = [
        "# The controls, on every shape of load",
        how,
        "## In time",
        _in_time(cells),
        "## Waiting and rejections",
        _the_rest(cells),
        "## Shapes",
        "\n".join(
            f"- *{shape.name}*: {shape.meaning}; {shape.capacity_per_s:.0f}/s" for shape in SHAPES.values()
        ),
        "## Loads",
        _loads(),
        "## Off",
        "\n".join(f"- *{name}*: {_settings(off)}" for name, off in CONTROLS.items()),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _in_time(cells: Iterable[Cell]) -> str:
    titles = ["shape", "load", *COLUMNS, "on", "worse than off by itself"]
    rows = [
        [
            cell.shape,
            cell.load,
            *(cell.columns[column].in_time for column in COLUMNS),
            cell.verdict,
            ", ".join(f"{name} {cell.gain(name):+.1f}" for name in cell.costly),
        ]
        for cell in cells
    ]
    return table(titles, rows)


def _the_rest(cells: Iterable[Cell]) -> str:
    titles = ["shape", "load", "column", "in time %", "waited %", "wait p99 ms", "rejected %"]
    rows = [
        [cell.shape, cell.load, column, one.in_time, one.waited, one.wait_p99_ms, one.rejected]
        for cell in cells
        for column, one in cell.columns.items()
    ]
    return table(titles, rows)


def _loads() -> str:
    lines = []
    for load in LOADS.values():
        text = f"- *{load.name}*: {load.share:.0%} of the capacity, evenly"
        if load.burst_s:
            within_ms = BURST_WITHIN_S * 1000
            text += f", and each second {load.burst_s * 1000:g} ms of the capacity within {within_ms:g} ms"
        if load.has_deadline:
            text += f"; `admission.query_ttl_ms` is {OF_USE_S * 1000:g}"
        lines.append(text)
    return "\n".join(lines)


def _settings(off: dict[str, dict[str, object]]) -> str:
    return ", ".join(
        f"`{section}.{key} = {str(value).lower() if isinstance(value, bool) else value}`"
        for section, entries in off.items()
        for key, value in entries.items()
    )
