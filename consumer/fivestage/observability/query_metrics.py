"""Metrics of queries and stages: plain numbers that become Prometheus metrics at each scrape.

A query updates seven histograms and six counters. prometheus_client's objects take one or two locks for each
update, which together cost more than decoding the query. Here only one thread, that of the bus loop, counts,
without locks. A scrape runs in another thread and copies the numbers while they change; it computes the
count of a histogram from the buckets it copied, so that the two always agree.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prometheus_client.core import Metric

    from fivestage.core.outcome import QueryOutcome

BUCKETS_S: Final[tuple[float, ...]] = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.25,
    0.3,
    0.5,
    1.0,
    2.5,
)
"""Contains 0.25, the default time limit of a query."""
QUEUE_BUCKETS_S: Final[tuple[float, ...]] = (0.005, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0, 3600.0)
CONSUMER_LABELS: Final = ("messaging_system", "messaging_destination_name", "messaging_consumer_group_name")


class Tally:
    """A histogram of durations: counts per bucket, and the sum in seconds."""

    __slots__ = ("_bounds", "counts", "sum_s")

    def __init__(self, bounds: tuple[float, ...] = BUCKETS_S) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.sum_s += seconds

    def add(self, other: Tally) -> None:
        """Add the counts of another histogram with the same buckets."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum_s += other.sum_s

    def buckets(self) -> list[tuple[str, float]]:
        """Return Prometheus's cumulative buckets."""
        found, so_far = [], 0
        for bound, count in zip((*self._bounds, "+Inf"), self.counts, strict=True):
            so_far += count
            found.append((str(bound), float(so_far)))
        return found


class LaneTallies:
    """The numbers of one lane."""

    __slots__ = ("ended", "queue", "skipped", "stages", "unstarted")

    def __init__(self) -> None:
        self.queue = Tally(QUEUE_BUCKETS_S)
        self.ended: dict[tuple[str, bool, str], Tally] = defaultdict(Tally)
        """Durations of queries that ran, by status, whether within the budget, and error type."""
        self.unstarted: dict[str, int] = defaultdict(int)
        """Queries that did not run, by status."""
        self.stages: dict[tuple[str, str], Tally] = defaultdict(Tally)
        """Durations of stages that ran, by stage and outcome."""
        self.skipped: dict[tuple[str, str], int] = defaultdict(int)
        """Stages that did not run, likewise."""

    def concluded(self, outcome: QueryOutcome, queue_s: float, error_type: str) -> None:
        """Count a query that ran."""
        self.queue.observe(queue_s)
        self.ended[outcome.status, outcome.within_budget, error_type].observe(outcome.duration_s)
        stages = self.stages
        for run in outcome.runs:
            if run.started_at is None:
                self.skipped[run.spec.stage_type, run.outcome] += 1
            else:
                stages[run.spec.stage_type, run.outcome].observe(run.duration_s)


class QueryMetrics:
    """Prometheus collector of the numbers of all lanes.

    Args:
        topic: The input topic.
        group_id: The consumer group.
    """

    def __init__(self, *, topic: str, group_id: str) -> None:
        self._consumer = ("kafka", topic, group_id)
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
        yield _histogram(
            "fivestage_queue_age_seconds",
            "Age of a query when it was started or rejected, by its record's timestamp.",
            ("lane",),
            {(name,): lane.queue for name, lane in lanes.items()},
        )

    def _pipelines(self, lanes: Mapping[str, _Snapshot]) -> Iterable[Metric]:
        labels = ("lane", "status", "within_budget")
        durations: dict[tuple[str, ...], Tally] = defaultdict(Tally)
        totals: dict[tuple[str, ...], int] = defaultdict(int)
        for name, lane in lanes.items():
            for (status, within_budget, _), tally in lane.ended.items():
                key = (name, status, "true" if within_budget else "false")
                durations[key].add(tally)
                totals[key] += sum(tally.counts)
            for status, count in lane.unstarted.items():
                totals[name, status, "false"] += count
        text = "Time from the start of the first stage to the end of the query."
        yield _histogram("lukhas_matriz_async_pipeline_duration_seconds", text, labels, durations)
        yield _counter("lukhas_matriz_async_pipeline", "Queries ended.", labels, totals)

    def _stages(self, lanes: Mapping[str, _Snapshot]) -> Iterable[Metric]:
        labels = ("lane", "stage", "outcome")
        durations: dict[tuple[str, ...], Tally] = {}
        totals: dict[tuple[str, ...], int] = defaultdict(int)
        for name, lane in lanes.items():
            for ran, tally in lane.stages.items():
                durations[name, *ran] = tally
                totals[name, *ran] += sum(tally.counts)
            for skipped, count in lane.skipped.items():
                totals[name, *skipped] += count
        yield _histogram("lukhas_matriz_async_stage_duration_seconds", "Time a stage ran.", labels, durations)
        text = "Stages ended, skipped ones included."
        yield _counter("lukhas_matriz_async_stage", text, labels, totals)

    def _processes(self, lanes: Mapping[str, _Snapshot]) -> Metric:
        durations: dict[tuple[str, ...], Tally] = defaultdict(Tally)
        for lane in lanes.values():
            for (_, _, error_type), tally in lane.ended.items():
                durations[*self._consumer, "process", error_type].add(tally)
        labels = (*CONSUMER_LABELS, "messaging_operation_name", "error_type")
        text = "Time to process one record."
        return _histogram("messaging_process_duration_seconds", text, labels, durations)


class _Snapshot:
    """A copy of a lane's numbers: dictionaries that do not change while they are iterated over."""

    def __init__(self, lane: LaneTallies) -> None:
        self.queue = _copy(lane.queue)
        self.ended = {key: _copy(tally) for key, tally in list(lane.ended.items())}
        self.unstarted = dict(lane.unstarted)
        self.stages = {key: _copy(tally) for key, tally in list(lane.stages.items())}
        self.skipped = dict(lane.skipped)


def _copy(tally: Tally) -> Tally:
    seen = Tally(tally._bounds)  # noqa: SLF001 - the same class
    seen.add(tally)
    return seen


def _histogram(
    name: str, text: str, labels: Sequence[str], found: Mapping[tuple[str, ...], Tally]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, tally in found.items():
        family.add_metric(values, tally.buckets(), tally.sum_s)
    return family


def _counter(
    name: str, text: str, labels: Sequence[str], found: Mapping[tuple[str, ...], int]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in found.items():
        family.add_metric(values, count)
    return family
