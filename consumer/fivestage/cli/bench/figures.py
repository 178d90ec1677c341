"""The figures of each load, and from all of them where the app breaks. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RISE: Final = 0.95
"""A load gives all that can be had if it has this share of the most answers in time."""
EASY: Final = 0.99
"""The share in time from which a load is easy, if half of the budget is left at the 95th percentile."""
FAST_FACTOR: Final = 2.0
SLOW_FACTOR: Final = 1.3
LAST_STEPS: Final = 2
"""Loads beyond the one that gives most, after which the measurement ends."""
LATE_MS: Final = 50.0
"""Milliseconds behind its plan from which the generator, not the app, may be what is measured.

A generator that is too slow falls further and further behind; one that waited once for a core does not."""


@dataclass
class Step:
    """One load, and what became of its queries."""

    rate: float
    """Queries a second that were to be written."""
    seconds: float
    sent: int = 0
    in_time: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """How queries ended: ``in time``, ``late`` (answered after its time), another status, ``no result``."""
    errors: Counter[str] = field(default_factory=Counter)
    nodes: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    """Of the queries that were answered, from the moment at which they were due."""
    stages_ms: dict[str, list[float]] = field(default_factory=dict)
    between_ms: list[float] = field(default_factory=list)
    """Of the queries that ran: the time in which none of their stages did."""
    stage_outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    behind_ms: float = 0.0
    """How far the generator was behind its plan, in the median."""

    @property
    def in_time_rate(self) -> float:
        """Answers in time for each second of the load."""
        return self.in_time / self.seconds

    @property
    def in_time_share(self) -> float:
        """The share of the queries that were answered in time."""
        return self.in_time / self.sent if self.sent else 0.0

    def add(self, result: Mapping[str, Any], latency_ms: float, budget_ms: float) -> None:
        """Count a result, which came *latency_ms* after its query was due."""
        status = result["status"]
        if status == "success":
            self.latencies_ms.append(latency_ms)
            status = "in time" if latency_ms <= budget_ms else "late"
        self.outcomes[status] += 1
        self.in_time += status == "in time"
        if result["error_type"]:
            self.errors[result["error_type"]] += 1
        if result["node"]:
            self.nodes[result["node"]] += 1
        if result["stages"]:
            in_stages = sum(stage["duration_ms"] for stage in result["stages"])
            self.between_ms.append(max(0.0, result["metrics"]["total_duration_ms"] - in_stages))
        for stage in result["stages"]:
            name = stage["stage_type"]
            self.stage_outcomes.setdefault(name, Counter())[stage["outcome"]] += 1
            if stage["outcome"] != "skipped":
                self.stages_ms.setdefault(name, []).append(stage["duration_ms"])

    def as_json(self) -> dict[str, Any]:
        """Return the figures for programs."""
        return {
            "load_per_s": self.rate,
            "seconds": round(self.seconds, 3),
            "sent": self.sent,
            "in_time_per_s": round(self.in_time_rate, 1),
            "in_time": round(self.in_time_share, 4),
            "outcomes": dict(self.outcomes),
            "error_types": dict(self.errors),
            "nodes": dict(self.nodes),
            "latency_ms": percentiles(self.latencies_ms),
            "stages_ms": {name: percentiles(values) for name, values in self.stages_ms.items()},
            "generator_behind_ms": round(self.behind_ms, 1),
        }


@dataclass(frozen=True)
class Verdict:
    """Where an app breaks."""

    best: Step
    """The lowest load that gives all the answers in time that can be had."""
    most_per_s: float
    """The most answers in time a second, at any load."""
    broke: bool
    """A higher load gave no more."""
    easy: Step | None
    """The highest load below that at which nearly all queries were answered in time."""
    generator_was_late: bool
    """The load could not be offered as planned: the app may take more."""


def verdict(steps: Sequence[Step]) -> Verdict:
    """Judge all loads, of which there must be one."""
    most = max(step.in_time_rate for step in steps)
    best = next(step for step in steps if step.in_time_rate >= RISE * most)
    beyond = [step for step in steps if step.rate > best.rate]
    easy = [step for step in steps if step.rate <= best.rate and step.in_time_share >= EASY]
    late = any(step.behind_ms > LATE_MS for step in steps)
    return Verdict(best, most, bool(beyond), easy[-1] if easy else None, late)


def is_over(steps: Sequence[Step]) -> bool:
    """Whether the load has risen far enough."""
    found = verdict(steps)
    beyond = [step for step in steps if step.rate > found.best.rate and step.in_time_share < EASY]
    return len(beyond) >= LAST_STEPS or steps[-1].behind_ms > LATE_MS


def next_rate(last: Step, budget_ms: float) -> float:
    """Return the next load: twice the last, or closer where that was no longer easy."""
    p95 = percentiles(last.latencies_ms)["p95"]
    easy = last.in_time_share >= EASY and p95 is not None and p95 <= budget_ms / 2
    return float(round(last.rate * (FAST_FACTOR if easy else SLOW_FACTOR)))


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """Return p50, p95 and p99; None of no values."""
    ordered = sorted(values)
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return {
        name: round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else None
        for name, share in shares.items()
    }
