# mypy: disable-error-code="import-not-found"
"""The gallery on one page: a row for each shape, a column for each load, what is answered in time in each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from .controls_run import COLUMNS
from .report import OUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .controls_cells import Cell

INCHES_WIDE, INCHES_A_ROW = 10.0, 0.85
OFF, ON = "#8c8c8c", {"better": "#2ca02c", "worse": "#d62728", "": "#1f77b4"}
ALONE = "#555555"


def draw_grid(cells: Sequence[Cell]) -> None:
    """Two bars a cell, off above on, and a mark for each control by itself."""
    mpl.rcParams.update({"svg.hashsalt": "fivestage", "svg.fonttype": "none"})
    shapes = list(dict.fromkeys(cell.shape for cell in cells))
    loads = list(dict.fromkeys(cell.load for cell in cells))
    figure = Figure(figsize=(INCHES_WIDE, 1.2 + INCHES_A_ROW * len(shapes)), layout="constrained")
    figure.suptitle(
        "Answered in time, % of the queries: all controls off (grey, above) and on (below)\n"
        "green: on is better; red: worse; blue: no difference; ticks: each control by itself",
        fontsize="medium",
    )
    areas = figure.subplots(len(shapes), len(loads), sharex=True, sharey=True, squeeze=False)
    for cell in cells:
        _draw(cell, areas[shapes.index(cell.shape), loads.index(cell.load)])
    for area, load in zip(areas[0], loads, strict=True):
        area.set_title(load, fontsize="medium")
    for area, shape in zip(areas[:, 0], shapes, strict=True):
        area.set_ylabel(shape, rotation=0, ha="right", va="center")
    figure.savefig(OUT / "controls.svg", format="svg", metadata={"Date": None})


def _draw(cell: Cell, area: Any) -> None:
    off, on = cell.columns["off"].in_time, cell.columns["on"].in_time
    bars = area.barh([1, 0], [off, on], height=0.8, color=[OFF, ON[cell.verdict]])
    gain = f" ({cell.gain():+.1f})" if cell.verdict else ""
    area.bar_label(bars, labels=[f"{off:.1f}", f"{on:.1f}{gain}"], fontsize="x-small", padding=2)
    alone = [cell.columns[column].in_time for column in COLUMNS[2:]]
    area.plot(alone, [-0.75] * len(alone), "|", color=ALONE, markersize=6)
    area.set(xlim=(0, 160), ylim=(-1.1, 1.6), xticks=[0, 50, 100], yticks=[])
    area.tick_params(labelsize="x-small")
    area.spines[["top", "right"]].set_visible(False)
