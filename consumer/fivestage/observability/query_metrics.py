"""The metrics of queries and stages: counted in plain numbers, made into Prometheus's when they are scraped.

A query touches seven histograms and six counters. Prometheus's own objects take a lock or two for each, which
together cost more than decoding the query. Here everything is counted by one thread, the bus's, and a scrape
in another reads lists that grow meanwhile: each histogram's count is the sum of the buckets it reads.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

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
"""0.25 is a bound, because the default budget is."""
QUEUE_BUCKETS_S: Final[tuple[float, ...]] = (0.005, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0, 3600.0)
CONSUMER_LABELS: Final = ("messaging_system", "messaging_destination_name", "messaging_consumer_group_name")


class Tally:
    """How many durations fell into which bucket, and their sum; seconds."""

    __slots__ = ("_bounds", "counts", "sum_s")

    def __init__(self, bounds: tuple[float, ...] = BUCKETS_S) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum_s = 0.0

    def __repr__(self) -> str:
        return f"<Tally {sum(self.counts)} of {self.sum_s:.3f} s>"

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.sum_s += seconds

    def add(self, other: Tally) -> None:
        """Count all of another's, which has the same buckets."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum_s += other.sum_s

    def buckets(self) -> list[tuple[str, float]]:
        """Prometheus's cumulative buckets."""
        found, so_far = [], 0
        for bound, count in zip((*self._bounds, "+Inf"), self.counts, strict=True):
            so_far += count
            found.append((str(bound), float(so_far)))
        return found


class Ended(NamedTuple):
    """What queries that ended are told apart by."""

    status: str
    within_budget: bool
    error_type: str


class LaneTallies:
    """What is counted of one lane."""

    __slots__ = ("ended", "queue", "skipped", "stages", "unstarted")

    def __init__(self) -> None:
        self.queue = Tally(QUEUE_BUCKETS_S)
        self.ended: dict[tuple[str, bool, str], Tally] = defaultdict(Tally)
        """By what ``Ended`` names."""
        self.unstarted: dict[str, int] = defaultdict(int)
        """Terminal events of queries that never ran, by status."""
        self.stages: dict[tuple[str, str], Tally] = defaultdict(Tally)
        """Stages that ran, by stage and outcome."""
        self.skipped: dict[tuple[str, str], int] = defaultdict(int)
        """Stages that did not run, in the same way."""

    def concluded(self, conclusion: QueryOutcome, queue_s: float, error_type: str) -> None:
        """A query that was started has ended."""
        self.queue.observe(queue_s)
        self.ended[conclusion.status, conclusion.within_budget, error_type].observe(conclusion.duration_s)
        stages = self.stages
        for run in conclusion.runs:
            if run.started_at is None:
                self.skipped[run.spec.stage_type, run.outcome] += 1
            else:
                stages[run.spec.stage_type, run.outcome].observe(run.duration_s)


class QueryMetrics:
    """Prometheus's collector of all lanes' tallies.

    Args:
        topic: The input topic.
        group_id: The consumer group.
    """

    def __init__(self, *, topic: str, group_id: str) -> None:
        self._consumer = ("kafka", topic, group_id)
        self.lanes: dict[str, LaneTallies] = {}

    def __repr__(self) -> str:
        return f"<QueryMetrics of {sorted(self.lanes)}>"

    def describe(self) -> list[Metric]:
        """Names are checked against each other when the collector is registered."""
        return list(self.collect())

    def collect(self) -> Iterable[Metric]:
        """Everything as it is now; called in another thread than the one that counts."""
        lanes = {name: _Seen(lane) for name, lane in list(self.lanes.items())}
        yield from self._pipelines(lanes)
        yield from self._stages(lanes)
        yield self._processes(lanes)
        yield _histogram(
            "fivestage_queue_age_seconds",
            "Age of a query, by its record's timestamp, when it was taken up.",
            ("lane",),
            {(name,): lane.queue for name, lane in lanes.items()},
        )

    def _pipelines(self, lanes: Mapping[str, _Seen]) -> Iterable[Metric]:
        labels = ("lane", "status", "within_budget")
        durations: dict[tuple[str, ...], Tally] = defaultdict(Tally)
        totals: dict[tuple[str, ...], int] = defaultdict(int)
        for name, lane in lanes.items():
            for ended, tally in lane.ended.items():
                key = (name, ended.status, "true" if ended.within_budget else "false")
                durations[key].add(tally)
                totals[key] += sum(tally.counts)
            for status, count in lane.unstarted.items():
                totals[name, status, "false"] += count
        text = "Time from the start of the first stage to the end of the query."
        yield _histogram("lukhas_matriz_async_pipeline_duration_seconds", text, labels, durations)
        yield _counter("lukhas_matriz_async_pipeline", "Queries ended.", labels, totals)

    def _stages(self, lanes: Mapping[str, _Seen]) -> Iterable[Metric]:
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

    def _processes(self, lanes: Mapping[str, _Seen]) -> Metric:
        durations: dict[tuple[str, ...], Tally] = defaultdict(Tally)
        for lane in lanes.values():
            for ended, tally in lane.ended.items():
                durations[*self._consumer, "process", ended.error_type].add(tally)
        labels = (*CONSUMER_LABELS, "messaging_operation_name", "error_type")
        text = "Time to process one record."
        return _histogram("messaging_process_duration_seconds", text, labels, durations)


class _Seen:
    """A lane's tallies at one moment: dictionaries that nobody changes while they are gone through."""

    def __init__(self, lane: LaneTallies) -> None:
        self.queue = _copy(lane.queue)
        self.ended = {Ended(*key): _copy(tally) for key, tally in list(lane.ended.items())}
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
