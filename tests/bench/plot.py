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
