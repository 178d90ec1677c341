"""What the parts of ``make bench`` are asked, and what they tell."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PARTITIONS = 8


class Options(NamedTuple):
    """How much of what."""

    kafka: str | None
    rounds: int
    queries: int
    only: str | None
    seconds: float
    limit_s: float


class Bar(NamedTuple):
    """A promise, and what became of it."""

    name: str
    limit: str
    measured: str
    kept: bool | None
    """None: not measured."""

    @classmethod
    def at_most(cls, name: str, measured: float | None, limit: float, unit: str = "") -> Bar:
        """A figure that must not be larger."""
        kept = None if measured is None else measured <= limit
        return cls(name, f"<= {limit:.3g}{unit}", _told(measured, unit), kept)

    @classmethod
    def at_least(cls, name: str, measured: float | None, limit: float, unit: str = "") -> Bar:
        """A figure that must not be smaller."""
        kept = None if measured is None else measured >= limit
        return cls(name, f">= {limit:.5g}{unit}", _told(measured, unit), kept)


def _told(measured: float | None, unit: str) -> str:
    if measured is None:
        return "-"
    return f"{measured:.0f}{unit}" if measured >= 1000 else f"{measured:.3g}{unit}"


class Part(NamedTuple):
    """What one part found."""

    title: str
    figures: Any
    table: str
    bars: Sequence[Bar]


class Spread(NamedTuple):
    """Figures of several rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one figure in all rounds."""
        return cls(statistics.median(values), min(values), max(values))

    def told(self, digits: int = 0) -> str:
        """For a table."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}..{self.high:.{digits}f})"


def paired(rounds: Sequence[Mapping[str, float]], one: str, other: str) -> Spread | None:
    """One's figure by the other's, round by round: drift of the machine is in both."""
    found = [each[one] / each[other] for each in rounds if one in each and other in each]
    return Spread.of(found) if found else None


def file_name(name: str, options: Options) -> str:
    """Of a part's files: those from a real Kafka have their own."""
    return name if options.kafka is None else f"{name}-kafka"
