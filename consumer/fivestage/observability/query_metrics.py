"""Metrics of queries and stages."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from fivestage.observability.known_labels import ENDINGS
from fivestage.observability.metric_table import queries as table
from fivestage.observability.metric_table.spec import BUCKETS_S, QUEUE_BUCKETS_S
from fivestage.observability.tally import Tally, counter, histogram

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client.core import Metric

    from fivestage.core.outcome import QueryOutcome
    from fivestage.observability.tally import TraceRef


class LaneTallies:
    """The numbers of one lane.

    Args:
        bounds: The buckets of the durations of queries and stages.
    """

    __slots__ = ("ended", "queue", "skipped", "stages", "unstarted")

    def __init__(self, bounds: tuple[float, ...] = BUCKETS_S) -> None:
        self.queue = Tally(QUEUE_BUCKETS_S)
        self.ended: dict[tuple[str, bool, str], Tally] = defaultdict(lambda: Tally(bounds))
        """Durations of queries that ran, by status, whether within the budget, and error type."""
        self.unstarted: dict[str, int] = defaultdict(int)
        """Queries that did not run, by status."""
        self.stages: dict[tuple[str, str], Tally] = defaultdict(lambda: Tally(bounds))
        """Durations of stages that ran, by stage and outcome."""
        self.skipped: dict[tuple[str, str], int] = defaultdict(int)
        """Stages that did not run, likewise."""

    def concluded(
        self, outcome: QueryOutcome, queue_s: float, error_type: str, trace: TraceRef | None
    ) -> None:
        """Count a query that ran."""
        self.queue.observe(queue_s, trace)
        self.ended[outcome.status, outcome.within_budget, error_type].observe(outcome.duration_s, trace)
        stages = self.stages
        for run in outcome.runs:
            if run.started_at is None:
                self.skipped[run.spec.stage_type, run.outcome] += 1
            else:
                stages[run.spec.stage_type, run.outcome].observe(run.duration_s, trace)


class QueryMetrics:
    """Prometheus collector of the numbers of all lanes.

    Args:
        topic: The input topic.
        group_id: The consumer group.
        bounds: The buckets of the durations of queries and stages.
    """

    def __init__(self, *, topic: str, group_id: str, bounds: tuple[float, ...]) -> None:
        self._consumer = ("kafka", topic, group_id)
        self._bounds = bounds
        self.lanes: dict[str, LaneTallies] = {}

    def describe(self) -> list[Metric]:
        """Return all metrics, for the registry's check that names are unique."""
        return list(self.collect())

    def collect(self) -> Iterable[Metric]:
        """Return all metrics as they are now; runs in another thread than the one that counts."""
        lanes = {name: _Snapshot(lane) for name, lane in list(self.lanes.items())}
        yield from self._pipelines(lanes)
        yield from self._stages(lanes)
        yield self._processes(lanes)
        yield histogram(table.QUEUE_AGE, {(name,): lane.queue for name, lane in lanes.items()})

    def _pipelines(self, lanes: Mapping[str, _Snapshot]) -> Iterable[Metric]:
        durations: dict[tuple[str, ...], Tally] = defaultdict(lambda: Tally(self._bounds))
        totals: dict[tuple[str, ...], int] = defaultdict(int)
        for name, lane in lanes.items():
            for ending in ENDINGS:
                totals[name, *ending] = 0
            for (status, within_budget, _), tally in lane.ended.items():
                key = (name, status, "true" if within_budget else "false")
                durations[key].add(tally)
                totals[key] += sum(tally.counts)
            for status, count in lane.unstarted.items():
                totals[name, status, "false"] += count
        yield histogram(table.PIPELINE_DURATION, durations)
        yield counter(table.PIPELINE, totals)

    def _stages(self, lanes: Mapping[str, _Snapshot]) -> Iterable[Metric]:
        durations: dict[tuple[str, ...], Tally] = {}
        totals: dict[tuple[str, ...], int] = defaultdict(int)
        for name, lane in lanes.items():
            for ran, tally in lane.stages.items():
                durations[name, *ran] = tally
                totals[name, *ran] += sum(tally.counts)
            for skipped, count in lane.skipped.items():
                totals[name, *skipped] += count
        yield histogram(table.STAGE_DURATION, durations)
        yield counter(table.STAGE, totals)

    def _processes(self, lanes: Mapping[str, _Snapshot]) -> Metric:
        durations: dict[tuple[str, ...], Tally] = defaultdict(lambda: Tally(self._bounds))
        for lane in lanes.values():
            for (_, _, error_type), tally in lane.ended.items():
                durations[*self._consumer, "process", error_type].add(tally)
        return histogram(table.PROCESS_DURATION, durations)


class _Snapshot:
    """A copy of a lane's numbers: dictionaries that do not change while they are iterated over."""

    def __init__(self, lane: LaneTallies) -> None:
        self.queue = lane.queue.copy()
        self.ended = {key: tally.copy() for key, tally in list(lane.ended.items())}
        self.unstarted = dict(lane.unstarted)
        self.stages = {key: tally.copy() for key, tally in list(lane.stages.items())}
        self.skipped = dict(lane.skipped)
