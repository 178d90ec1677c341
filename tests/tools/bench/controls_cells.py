"""The results of a run in a few figures, and columns compared within a cell."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from .controls_loads import LOADS, OF_USE_S
from .controls_run import AFTER_S, COLUMNS, run
from .report import percentile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .controls_loads import Load
    from .controls_run import Seen
    from .controls_shapes import Shape

WAITED_S = 0.001
"""Queries that start within this did not wait."""
TOLERATED = 0.5
"""Percentage points of the queries answered in time: less is no difference."""
TROUBLE = 0.9
"""Of the answers that the capacity allows in time: with less there is something to gain."""
NOT_CALLED = frozenset({"breaker_open", "node_busy", "node_stuck", "rejected"})


class Figures(NamedTuple):
    """One column of a cell; shares are percentages of its queries."""

    shape: str
    load: str
    column: str
    seed: int
    queries: int
    in_time: float
    """Answered within OF_USE_S of when they were asked."""
    waited: float
    """Had to wait for a slot."""
    wait_p99_ms: float
    """Of all queries; one that was not started waited until it was rejected."""
    rejected: float
    """Expired before they started, or their node was not called."""


class Cell(NamedTuple):
    """A shape under a load: the means over the seeds, by column."""

    shape: str
    load: str
    columns: dict[str, Figures]

    def gain(self, column: str = "on") -> float:
        """Percentage points that a column answers more in time than with all controls off."""
        return self.columns[column].in_time - self.columns["off"].in_time

    @property
    def verdict(self) -> str:
        """Return ``worse``, ``better``, or an empty text where on and off are equally good."""
        if abs(self.gain()) <= TOLERATED:
            return ""
        return "better" if self.gain() > 0 else "worse"

    @property
    def in_trouble(self) -> bool:
        """With all controls off clearly less is answered in time than the capacity allows."""
        return self.columns["off"].in_time < TROUBLE * min(100.0, 100 / LOADS[self.load].share)

    @property
    def costly(self) -> list[str]:
        """The single controls that answer less in time than none."""
        return [column for column in COLUMNS[2:] if self.gain(column) < -TOLERATED]


def measure(shape: Shape, load: Load, column: str, seed: int) -> Figures:
    """Run one column of one cell, and count."""
    return judge(run(shape, load, column, seed), shape.name, load.name, column, seed)


def judge(seen: Sequence[Seen], shape: str, load: str, column: str, seed: int) -> Figures:
    """Count what became of the queries."""
    waits = [_wait_s(one) for one in seen]
    return Figures(
        shape,
        load,
        column,
        seed,
        len(seen),
        _percent(map(_is_in_time, seen)),
        _percent(wait > WAITED_S for wait in waits),
        1000 * (percentile(waits, 0.99) or 0.0),
        _percent(map(_is_rejected, seen)),
    )


def cells(found: Iterable[Figures]) -> list[Cell]:
    """Put the columns of each cell together, each the mean of its seeds."""
    grouped: dict[tuple[str, str], dict[str, list[Figures]]] = defaultdict(lambda: defaultdict(list))
    for one in found:
        grouped[one.shape, one.load][one.column].append(one)
    return [
        Cell(shape, load, {column: _mean(seeds) for column, seeds in columns.items()})
        for (shape, load), columns in grouped.items()
    ]


def _mean(seeds: Sequence[Figures]) -> Figures:
    means = [fmean(values) for values in zip(*(one[5:] for one in seeds), strict=True)]
    return Figures(*seeds[0][:4], sum(one.queries for one in seeds), *means)


def _wait_s(one: Seen) -> float:
    """Until it started, or was rejected; one that did neither waits until the run is over."""
    if one.started_at is not None:
        return one.started_at - one.asked.at
    return AFTER_S if one.end is None else one.end.at - one.asked.at


def _is_in_time(one: Seen) -> bool:
    end = one.end
    return end is not None and end.status == "success" and end.at - one.asked.at <= OF_USE_S


def _is_rejected(one: Seen) -> bool:
    end = one.end
    return end is not None and (end.status == "expired" or end.error_type in NOT_CALLED)


def _percent(those: Iterable[bool]) -> float:
    flags = list(those)
    return 100 * sum(flags) / max(1, len(flags))
