# mypy: disable-error-code="import-not-found"
"""The curves of all axes on one page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from .report import OUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .scale import Curve

COLUMNS = 2
INCHES_WIDE, INCHES_HIGH = 4.5, 2.8


def draw_curves(curves: Sequence[Curve]) -> None:
    """A panel for each axis: what a query costs, with the spread of the rounds, and how many there are.

    Both scales are logarithmic: a line that climbs as the dotted one does is in proportion.
    """
    mpl.rcParams.update({"svg.hashsalt": "fivestage", "svg.fonttype": "none"})
    rows = -(-len(curves) // COLUMNS)
    figure = Figure(figsize=(INCHES_WIDE * COLUMNS, INCHES_HIGH * rows), layout="constrained")
    figure.suptitle("CPU microseconds a query as one thing grows")
    areas = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for curve, area in zip(curves, areas, strict=False):
        _draw(curve, area)
    for area in areas[len(curves) :]:
        area.set_axis_off()
    figure.savefig(OUT / "scale.svg", format="svg", metadata={"Date": None})


def _draw(curve: Curve, area: Any) -> None:
    x = [step.x for step in curve.steps]
    costs = [step.cpu_us for step in curve.steps]
    area.fill_between(
        x, [s.cpu_us_least for s in curve.steps], [s.cpu_us_most for s in curve.steps], alpha=0.2
    )
    area.plot(x, costs, "o-", label=f"measured: {curve.verdict}")
    area.plot(x, [costs[0] * at / x[0] for at in x], ":", color="gray", label="in proportion")
    area.set(xlabel=curve.axis.unit, ylabel="us a query", xscale="log", yscale="log")
    area.set_ylim(min(costs) / 2, max(costs) * 4)
    area.grid(visible=True, alpha=0.3)
    area.legend(loc="upper left", fontsize="x-small")
