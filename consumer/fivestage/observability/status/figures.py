"""Counts how queries, stages and nodes end, in slots of time; computes figures only when they are read.

A query costs a few additions. A slot is closed by ``close_slot``, every SLOT_S.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING, Final

from fivestage.observability.status.durations import BUCKETS, RollingCounts, bucket_of, percentiles_ms
from fivestage_schemas import Outcome, PipelineStatus, StageType, TimeoutReason

if TYPE_CHECKING:
    from fivestage.core.outcome import QueryOutcome
    from fivestage.core.stage_run import StageRun
    from fivestage.observability.status.model import Failure

SLOT_S: Final = 5.0
RECENT_SLOTS: Final = 60
"""Percentiles and outcomes cover these slots: five minutes."""
SLOTS: Final = 720
"""Counts and series cover these: an hour."""
SLOW_SHARE: Final = 0.5
"""An answer in time is slow if it took a larger share of its budget."""
MAX_NODES: Final = 64
"""Nodes, each in each lane, that are counted apart: producers choose the lanes."""
OTHER: Final = "other"
FAILS_FROM: Final = 0.25
FAILS_UNTIL: Final = 0.125
"""A node fails from one share of its calls on, until it falls below the other one; later slots count more."""
_WEIGHT: Final = 0.5
"""Of what came before a slot, in these shares."""
OUTCOMES: Final = tuple(Outcome)
_SUCCESS: Final = Outcome.SUCCESS
_SKIPPED: Final = Outcome.SKIPPED
_SUCCEEDED: Final = PipelineStatus.SUCCESS
_TIMED_OUT: Final = PipelineStatus.TIMEOUT
_INDEX: Final = {outcome: BUCKETS + number for number, outcome in enumerate(OUTCOMES)}
"""Where the outcomes of a stage are counted."""


class Slot:
    """What happened within SLOT_S."""

    __slots__ = (
        "answered", "dead_letters", "ended", "errors", "expired", "in_time", "lag", "p50_ms", "p95_ms",
        "rejected", "running", "timeouts",
    )  # fmt: skip

    def __init__(self) -> None:
        self.ended = 0
        """Queries with a terminal event, by any status."""
        self.in_time = 0
        """Those that succeeded within their budget."""
        self.answered = 0
        self.timeouts = 0
        self.errors = 0
        self.expired = 0
        self.rejected = 0
        self.dead_letters = 0
        # When it was closed:
        self.running = 0
        self.lag = 0
        self.p50_ms: float | None = None
        self.p95_ms: float | None = None


class NodeFigures:
    """The calls of a node in one lane."""

    __slots__ = ("_calls", "_failed", "counts", "failing_since", "failure", "shown")

    def __init__(self) -> None:
        self.counts = RollingCounts(RECENT_SLOTS, 1)
        """The only outcome is a failure."""
        self.failure: StageRun | None = None
        """The last call that failed."""
        self.shown: tuple[StageRun, Failure] | None = None
        """What the document last showed as the last failure."""
        self.failing_since: float | None = None
        """The begin of the slot since which many of its calls fail (seconds since the epoch)."""
        self._calls = self._failed = 0.0

    def close_slot(self, started_at: float) -> None:
        """Start a new slot; *started_at* is the begin of this one. A slot without calls says nothing."""
        current = self.counts.current
        calls, failed = sum(current[:BUCKETS]), current[BUCKETS]
        if calls:
            self._calls = calls + _WEIGHT * self._calls
            self._failed = failed + _WEIGHT * self._failed
            share = self._failed / self._calls
            if share < FAILS_UNTIL:
                self.failing_since = None
            elif share >= FAILS_FROM and self.failing_since is None:
                self.failing_since = started_at
        self.counts.close_slot()


class Figures:
    """The counts of the last hour. Used on the bus loop."""

    __slots__ = ("_others", "between", "nodes", "slot", "slots", "stages", "whole")

    def __init__(self) -> None:
        self.slot = Slot()
        """The one that is being filled."""
        self.slots: deque[Slot] = deque()
        """The closed ones, the oldest first."""
        self.whole = RollingCounts(RECENT_SLOTS, 0)
        """The durations of queries that ran."""
        self.between = RollingCounts(RECENT_SLOTS, 0)
        """Of each of these durations the time in which no stage ran."""
        self.stages = [RollingCounts(RECENT_SLOTS, len(OUTCOMES)) for _ in StageType]
        self.nodes: dict[tuple[str, str], NodeFigures] = {}
        """By lane and node."""
        self._others = NodeFigures()

    def concluded(self, lane: str, outcome: QueryOutcome) -> bool:
        """Count a query that ran, with its stages and the calls of nodes; return whether all was well.

        Well is an answer with all stages, within SLOW_SHARE of the budget.
        """
        slot, status = self.slot, outcome.status
        well = False
        slot.ended += 1
        if status is _SUCCEEDED:
            well = not outcome.degraded and outcome.duration_s <= SLOW_SHARE * outcome.budget_s
            slot.answered += 1
            slot.in_time += well or outcome.within_budget
        elif status is _TIMED_OUT:
            slot.timeouts += 1
        else:
            slot.errors += 1
        self.whole.current[bucket_of(outcome.duration_s)] += 1
        between_s = outcome.duration_s  # without waits for threads, by which the query's start is moved
        for run in outcome.runs:
            counts = self.stages[run.spec.sequence].current
            counts[_INDEX[run.outcome]] += 1
            if run.started_at is not None:
                counts[bucket_of(run.duration_s)] += 1
                between_s -= run.duration_s
                if run.node is not None:
                    self._called(lane, run)
        for run in outcome.earlier:
            if run.started_at is not None and run.outcome is not _SKIPPED and run.node is not None:
                self._called(lane, run)
        if outcome.earlier:
            between_s = outcome.duration_s - _busy_s(outcome)
        self.between.current[bucket_of(between_s)] += 1
        return well

    def _called(self, lane: str, run: StageRun) -> None:
        """Count a call of a node."""
        key = (lane, run.node or "")
        node = self.nodes.get(key)
        if node is None:
            if len(self.nodes) >= MAX_NODES - 1:
                key, node = (OTHER, OTHER), self._others
            else:
                node = NodeFigures()
            self.nodes[key] = node
        counts = node.counts.current
        counts[bucket_of(run.duration_s)] += 1
        if run.outcome is not _SUCCESS and not run.excused:
            counts[BUCKETS] += 1
            node.failure = run

    def unstarted(self, reason: TimeoutReason) -> None:
        """Count a query that was not started."""
        self.slot.ended += 1
        if reason is TimeoutReason.WOULD_EXPIRE:
            self.slot.rejected += 1
        else:
            self.slot.expired += 1

    def unreadable(self, *, answered: bool) -> None:
        """Count a dead letter; *answered* with an error, if the query's id could be read."""
        self.slot.dead_letters += 1
        if answered:
            self.slot.ended += 1
            self.slot.errors += 1

    def close_slot(self, *, started_at: float, running: int, lag: int) -> None:
        """Start a new slot.

        Args:
            started_at: The begin of the slot that ends (seconds since the epoch).
            running: How many queries run.
            lag: How many records were not taken in yet.
        """
        slot = self.slot
        slot.running, slot.lag = running, lag
        slot.p50_ms, slot.p95_ms = percentiles_ms(self.whole.current, (0.5, 0.95))
        self.slots.append(slot)
        if len(self.slots) > SLOTS:
            self.slots.popleft()
        self.slot = Slot()
        self.whole.close_slot()
        self.between.close_slot()
        for stage in self.stages:
            stage.close_slot()
        for key, node in list(self.nodes.items()):
            node.close_slot(started_at)
            if node.counts.is_empty:
                del self.nodes[key]


def _busy_s(outcome: QueryOutcome) -> float:
    """Seconds in which a stage ran, in one call or in two beside each other; without work lost in a move."""
    calls = [
        (run.started_at, run.started_at + run.duration_s)
        for run in (*outcome.earlier, *outcome.runs)
        if run.started_at is not None and (run.outcome is not _SKIPPED or run.overtaken)
    ]
    busy_s, until = 0.0, -inf
    for started_at, ended_at in sorted(calls):
        busy_s += max(0.0, ended_at - max(started_at, until))
        until = max(until, ended_at)
    return busy_s
