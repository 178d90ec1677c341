# mypy: disable-error-code="import-not-found"
"""Plots as SVG, the same bytes for the same figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

INCHES_WIDE, INCHES_A_PANEL = 8.0, 2.6
SINGLE_INCHES = 4.5


class Line(NamedTuple):
    """One line of a panel; points without a value are left out."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    style: str = "-"


class Panel(NamedTuple):
    """Lines over a shared x axis."""

    y_label: str
    lines: Sequence[Line]


class Bars(NamedTuple):
    """One figure of each of those that are compared: its median, and the lowest and highest."""

    label: str
    spreads: Sequence[tuple[float, float, float]]


def draw_bars(path: Path, names: Sequence[str], figures: Sequence[Bars], *, title: str) -> None:
    """Draw a panel of bars for each figure, beside each other."""
    mpl.rcParams.update({"svg.hashsalt": "fivestage", "svg.fonttype": "none"})
    figure = Figure(figsize=(INCHES_WIDE, 1.0 + 0.35 * len(names)), layout="constrained")
    figure.suptitle(title)
    areas = figure.subplots(1, len(figures), sharey=True, squeeze=False)[0]
    for area, one in zip(areas, figures, strict=True):
        medians = [median for median, _, _ in one.spreads]
        below = [median - low for median, low, _ in one.spreads]
        above = [high - median for median, _, high in one.spreads]
        area.barh(names, medians, xerr=[below, above], error_kw={"capsize": 2, "linewidth": 1})
        area.set_xlabel(one.label)
        area.grid(visible=True, axis="x", alpha=0.3)
    areas[0].invert_yaxis()  # the first on top; the others share its axis
    figure.savefig(path, format="svg", metadata={"Date": None})


def draw(path: Path, panels: Sequence[Panel], *, x_label: str, title: str, **axes: Any) -> None:
    """Draw panels above each other.

    Args:
        path: The SVG file.
        panels: From above.
        x_label: Of the axis they share.
        title: Above all.
        axes: More properties of each panel's axes, such as ``xscale``.
    """
    mpl.rcParams.update({"svg.hashsalt": "fivestage", "svg.fonttype": "none"})
    height = SINGLE_INCHES if len(panels) == 1 else INCHES_A_PANEL * len(panels)
    figure = Figure(figsize=(INCHES_WIDE, height), layout="constrained")
    figure.suptitle(title)
    found = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
    for panel, area in zip(panels, found[:, 0], strict=True):
        for line in panel.lines:
            points = [(x, y) for x, y in zip(line.x, line.y, strict=True) if y is not None]
            if points:
                area.plot(*zip(*points, strict=True), line.style, label=line.label)
        area.set(ylabel=panel.y_label, **axes)
        area.set_ylim(bottom=0)
        area.grid(visible=True, alpha=0.3)
        if area.lines:
            area.legend(loc="best", fontsize="small")
        else:
            area.text(0.5, 0.5, "not measured", transform=area.transAxes, ha="center")
    found[-1, 0].set_xlabel(x_label)
    figure.savefig(path, format="svg", metadata={"Date": None})
