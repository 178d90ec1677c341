"""What a run may cost, and what the checker found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

LATE_S = 5.0
"""Generous: no machine is so busy that a query or its event is later."""


class Limits(NamedTuple):
    """What is allowed; None: not looked at."""

    in_flight: int | None = None
    unfinished: int | None = None
    rss_mb: float | None = None
    late_s: float | None = LATE_S
    """By how much a query may end after its budget."""
    written_late_s: float | None = LATE_S
    """By how much its event may be written after its budget."""
    shutdown_s: float | None = None
    repeated: int | None = None
    """How many events may be there of queries that were run again."""


@dataclass(repr=False)
class Report:
    """What the checker found: violations first, then what is no harm."""

    lost: list[str] = field(default_factory=list)
    phantom: list[str] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)
    """Events that are not what the contract says: value, key, headers, or their sum."""
    incomplete: list[str] = field(default_factory=list)
    """Answers without all of their stage results and timeouts."""
    contradictions: dict[str, str] = field(default_factory=dict)
    """What is wrong, by the query's or the event's id."""
    commit_ahead: list[str] = field(default_factory=list)
    commit_regressions: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    over_cap: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    bad_endings: list[str] = field(default_factory=list)
    duplicates: int = 0
    harmless: Counter[str] = field(default_factory=Counter)
    """Duplicates that contradict nothing, by how they differ from the first."""
    surplus: Counter[str] = field(default_factory=Counter)
    """Events of queries that were run again, by topic."""
    statuses: Counter[str] = field(default_factory=Counter)
    lateness_s: list[float] = field(default_factory=list)
    """How late each query ended, in order; not those that ran while an instance was stopped or starved."""
    written_lateness_s: list[float] = field(default_factory=list)
    """Likewise how late it was written; those written while a broker was away left out too."""

    @property
    def found(self) -> dict[str, list[str]]:
        """The violations of each kind; kinds without any are there too."""
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
        """How many of each kind; kinds without any are there too."""
        return {name: len(items) for name, items in self.found.items()}

    @property
    def silent(self) -> bool:
        """Whether no promise was broken."""
        return not any(self.found.values())

    def __repr__(self) -> str:
        found = [f"{name} {len(items)} {items[:3]}" for name, items in self.found.items() if items]
        said = ", ".join(found) or "nothing wrong"
        return (
            f"{said}; duplicates {dict(self.harmless)} of {self.duplicates}, surplus {dict(self.surplus)}, "
            f"{dict(self.statuses)}"
        )
