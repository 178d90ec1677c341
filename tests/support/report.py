"""The limits of a run, and the findings of the checker."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

LATE_S = 5.0
"""Generous: no machine makes a query end later than this."""
WRITTEN_LATE_S = 20.0
"""The same for the broker's time of its event: on a busy machine a broker has stood still for 5 s."""


class Limits(NamedTuple):
    """The limits; None: not checked."""

    in_flight: int | None = None
    unfinished: int | None = None
    rss_mb: float | None = None
    late_s: float | None = LATE_S
    """By how much a query may end after its budget."""
    written_late_s: float | None = WRITTEN_LATE_S
    """By how much its event may be written after its budget."""
    shutdown_s: float | None = None
    repeated: int | None = None
    """The allowed number of events of queries that were run again."""


@dataclass(repr=False)
class Report:
    """The findings of the checker: violations first, then harmless ones."""

    lost: list[str] = field(default_factory=list)
    phantom: list[str] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)
    """Events that violate the contract: value, key, headers, or their combination."""
    incomplete: list[str] = field(default_factory=list)
    """Answers without all of their stage results and timeouts."""
    contradictions: dict[str, str] = field(default_factory=dict)
    """The fault, by the query's or the event's id."""
    commit_ahead: list[str] = field(default_factory=list)
    commit_regressions: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    over_cap: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    bad_endings: list[str] = field(default_factory=list)
    duplicates: int = 0
    harmless: Counter[str] = field(default_factory=Counter)
    """Harmless duplicates, by how they differ from the first."""
    surplus: Counter[str] = field(default_factory=Counter)
    """Events of queries that were run again, by topic."""
    statuses: Counter[str] = field(default_factory=Counter)
    lateness_s: list[float] = field(default_factory=list)
    """How late each query ended, in order; without those on stopped or starved instances."""
    written_lateness_s: list[float] = field(default_factory=list)
    """The same for its writing; without those written while a broker was away."""

    @property
    def found(self) -> dict[str, list[str]]:
        """Return the violations of each kind, also empty ones."""
        return {
            "lost": self.lost,
            "phantom": self.phantom,
            "malformed": self.malformed,
            "incomplete": self.incomplete,
            "contradictions": [f"{name}: {why}" for name, why in self.contradictions.items()],
            "commit-ahead": self.commit_ahead,
            "commit-regressions": self.commit_regressions,
            "repeated": self.repeated,
            "over cap": self.over_cap,
            "late": self.late,
            "bad endings": self.bad_endings,
        }

    @property
    def violations(self) -> dict[str, int]:
        """Count the violations of each kind, also zero."""
        return {name: len(items) for name, items in self.found.items()}

    @property
    def silent(self) -> bool:
        """Return whether no promise was broken."""
        return not any(self.found.values())

    def __repr__(self) -> str:
        found = [f"{name} {len(items)} {items[:3]}" for name, items in self.found.items() if items]
        said = ", ".join(found) or "nothing wrong"
        return (
            f"{said}; duplicates {dict(self.harmless)} of {self.duplicates}, surplus {dict(self.surplus)}, "
            f"{dict(self.statuses)}"
        )
