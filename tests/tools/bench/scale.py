"""The cost of a query as everything around it grows: ``make bench-scale``.

One quantity at a time grows; the points of all axes take turns, round by round, so that other load on
the machine affects all of them. Exit code 1 where a cost grows faster than in proportion.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .children import run_verb
from .report import save, table
from .scale_axes import Axis, axes
from .scale_plot import draw_curves
from .scale_run import Figures, measure

if TYPE_CHECKING:
    from .scale_axes import Point

FLAT, LINEAR = 0.15, 1.1
"""Exponents of growth: 0 = does not grow at all, 1 = in proportion. Two runs differ by a tenth."""
TITLES = ["", "us CPU a query", "least", "most", "queries/s", "good", "MB resident"]


@dataclass(frozen=True)
class Step:
    """One point of a curve: medians of its rounds."""

    x: int
    cpu_us: float
    cpu_us_least: float
    cpu_us_most: float
    per_second: float
    success: float
    rss_mb: float

    @classmethod
    def of(cls, x: int, rounds: list[Figures]) -> Step:
        """Summarize the rounds."""
        costs = [one.cpu_us for one in rounds]
        return cls(
            x,
            statistics.median(costs),
            min(costs),
            max(costs),
            statistics.median(one.per_second for one in rounds),
            statistics.median(one.success for one in rounds),
            statistics.median(one.rss_mb for one in rounds),
        )


@dataclass(frozen=True)
class Curve:
    """The cost of a query along one axis."""

    axis: Axis
    steps: list[Step]

    @property
    def exponent(self) -> float:
        """Return the exponent of its steepest part: the cost grows with this power of the axis's quantity."""
        found = [
            math.log(after.cpu_us / before.cpu_us) / math.log(after.x / before.x)
            for before, after in pairwise(self.steps)
        ]
        return max(found, default=0.0)

    @property
    def gain(self) -> float:
        """Return the throughput at its end, relative to its beginning."""
        return self.steps[-1].per_second / self.steps[0].per_second

    @property
    def verdict(self) -> str:
        """Return the verdict in a word."""
        if self.exponent <= FLAT:
            return "flat"
        return "linear" if self.exponent <= LINEAR else "GROWS"


async def main() -> int:
    """Measure, print a table for each axis and write docs/bench/scale.*; the exit code."""
    parser = argparse.ArgumentParser(prog="make bench-scale", description=__doc__)
    parser.add_argument("--axes", help="which ones, such as keys,nodes; all if absent")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--kafka", help="host:port of a real broker; otherwise an embedded one")
    given = parser.parse_args()
    chosen = _chosen(given.axes, given.kafka)
    found: dict[Point, list[Figures]] = defaultdict(list)
    points = [point for axis in chosen for point in axis.points]
    for number in range(given.rounds):
        for point in points:
            figures = await measure(point, given.kafka, given.seconds)
            found[point].append(figures)
            _tell(f"round {number + 1}: {point.axis} {point.x}: {figures.cpu_us:.0f} us a query")
    curves = [Curve(axis, [Step.of(p.x, found[p]) for p in axis.points]) for axis in chosen]
    _publish(curves, vars(given))
    return 1 if any(curve.verdict == "GROWS" for curve in curves) else 0


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _chosen(names: str | None, kafka: str | None) -> list[Axis]:
    """Return the axes to measure; an embedded broker, with one member per group, cannot serve all."""
    found = {axis.name: axis for axis in axes()}
    if names is None:
        left_out = [name for name, axis in found.items() if axis.needs_kafka and not kafka]
        if left_out:
            _tell(f"left out without --kafka: {', '.join(left_out)}")
        return [axis for name, axis in found.items() if name not in left_out]
    wanted = names.split(",")
    if unknown := [name for name in wanted if name not in found]:
        raise SystemExit(f"no such axis: {', '.join(unknown)}; there are {', '.join(found)}")
    if not kafka and any(found[name].needs_kafka for name in wanted):
        raise SystemExit("several services need a real broker: --kafka")
    return [found[name] for name in wanted]


def _publish(curves: list[Curve], options: dict[str, Any]) -> None:
    for curve in curves:
        rows = [
            [s.x, s.cpu_us, s.cpu_us_least, s.cpu_us_most, s.per_second, f"{s.success:.1%}", s.rss_mb]
            for s in curve.steps
        ]
        print(f"\n{table([curve.axis.unit, *TITLES[1:]], rows)}")
        summary = f"exponent {curve.exponent:.2f}, {curve.gain:.2f} times the queries/s"
        print(f"{curve.axis.name}: {curve.verdict}, {summary}")
    figures = {
        curve.axis.name: {
            "unit": curve.axis.unit,
            "exponent": curve.exponent,
            "verdict": curve.verdict,
            "steps": [asdict(step) for step in curve.steps],
        }
        for curve in curves
    }
    save("scale", figures, options)
    draw_curves(curves)


if __name__ == "__main__":
    run_verb(main)
