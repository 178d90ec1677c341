"""The options and results of the parts of ``make bench``."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .yardstick import Yardstick

PARTITIONS = 8


class Options(NamedTuple):
    """The amounts of a run."""

    kafka: str | None
    rounds: int
    queries: int
    only: str | None
    seconds: float
    limit_s: float
    rates: Sequence[int]
    """Queries a second."""
    quick: bool
    """Leave out what is not needed to judge a change."""
    other_python: str | None
    """Of another environment whose fivestage is measured beside this one's."""
    publishes: bool
    """Whether files are written."""


class Bar(NamedTuple):
    """A promise, and its measurement."""

    name: str
    limit: str
    measured: str
    kept: bool | None
    """None: not measured."""

    @classmethod
    def at_most(cls, name: str, measured: float | None, limit: float, unit: str = "") -> Bar:
        """Build a bar whose figure must not be larger."""
        kept = None if measured is None else measured <= limit
        return cls(name, f"<= {limit:.3g}{unit}", _with_unit(measured, unit), kept)

    @classmethod
    def at_least(cls, name: str, measured: float | None, limit: float, unit: str = "") -> Bar:
        """Build a bar whose figure must not be smaller."""
        kept = None if measured is None else measured >= limit
        return cls(name, f">= {limit:.5g}{unit}", _with_unit(measured, unit), kept)


def _with_unit(measured: float | None, unit: str) -> str:
    if measured is None:
        return "-"
    return f"{measured:.0f}{unit}" if measured >= 1000 else f"{measured:.3g}{unit}"


class Part(NamedTuple):
    """The results of one part."""

    title: str
    figures: Any
    table: str
    bars: Sequence[Bar]
    yardsticks: Sequence[Yardstick] = ()
    """The machine between its rounds."""


class Spread(NamedTuple):
    """Figures of several rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarize one figure of all rounds."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int = 0) -> str:
        """Format for a table."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}..{self.high:.{digits}f})"


def paired(rounds: Sequence[Mapping[str, float]], one: str, other: str) -> Spread | None:
    """Divide one figure by the other's per round, as drift of the machine is in both."""
    found = [each[one] / each[other] for each in rounds if one in each and other in each]
    return Spread.of(found) if found else None


def in_turn(names: Iterable[str], number: int) -> list[str]:
    """Order the contestants of a round: each round begins with another."""
    ordered = [*names]
    first = number % len(ordered)
    return ordered[first:] + ordered[:first]


def file_name(name: str, options: Options) -> str:
    """Return the name of a part's files: those from a real Kafka have their own."""
    return name if options.kafka is None else f"{name}-kafka"
