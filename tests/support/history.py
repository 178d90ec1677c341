"""The observations of a run: records in its topics, commits, figures, exits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .commits import Commit
    from .reading import Place, Positions, Record

RESULTS, STAGE_RESULTS, TIMEOUTS, DEAD_LETTERS = OUTPUTS = (
    "results",
    "stage_results",
    "timeouts",
    "dead_letters",
)
"""The output topics, by their key in the settings."""


@dataclass
class Snapshot:
    """Committed positions, and the ends of the output topics, read just after them.

    For brokers that do not keep commits in a topic (mocks).
    """

    committed: Positions
    results_end: Positions
    letters_end: Positions = field(default_factory=dict)


class Sample(NamedTuple):
    """Figures of one instance at one moment."""

    instance: str
    in_flight: float
    """Running queries."""
    unfinished: float
    """Records read and not acknowledged."""
    rss_mb: float = 0.0


class InstanceExit(NamedTuple):
    """How an instance ended after SIGTERM."""

    instance: str
    took_s: float
    code: int
    began_at: float = 0.0


class Interval(NamedTuple):
    """An interval, in seconds since 1970."""

    begin: float
    end: float
    instance: str = ""
    """Its instance; empty: all."""
    aftermath_s: float = 0.0
    """How long the instance ran again at its end."""

    @property
    def continued(self) -> float:
        """Return when the instance ran again."""
        return self.end - self.aftermath_s


class Tenure(NamedTuple):
    """An interval in which an instance had a partition, as it saw that itself."""

    instance: str
    partition: int
    begin: float
    end: float


@dataclass
class History:
    """All observations of one run."""

    asked: set[str]
    """The ids of all queries, with those of unreadable ones with an id."""
    topic: str = "in"
    """The query topic."""
    queries: list[Record] = field(default_factory=list)
    outputs: dict[str, list[Record]] = field(default_factory=lambda: {name: [] for name in OUTPUTS})
    """By their key in the settings."""
    ends: Positions = field(default_factory=dict)
    """The offsets after the last queries."""
    rejects: set[Place] | None = None
    """The places of unreadable records; None when not known."""
    commits: list[Commit] = field(default_factory=list)
    """Every commit; or none, and snapshots."""
    snapshots: list[Snapshot] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    endings: list[InstanceExit] = field(default_factory=list)
    tenures: list[Tenure] = field(default_factory=list)
    """The partitions of instances; empty when not known."""
    pauses: list[Interval] = field(default_factory=list)
    """When an instance was stopped: a query that ran on it then may end late."""
    starved: list[Interval] = field(default_factory=list)
    """When an instance waited for a processor: likewise."""
    outages: list[Interval] = field(default_factory=list)
    """When a broker was away: an event that was due then may be written late."""
    lane: str = "prod"
    """The service's own lane."""
