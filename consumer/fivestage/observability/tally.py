"""Counts durations as plain numbers, which become Prometheus histograms and counters at each scrape.

A query updates a dozen histograms and counters. prometheus_client's objects take one or two locks for each
update, which together cost more than decoding the query. Here only one thread, that of the bus loop, counts,
without locks. A scrape runs in another thread and copies the numbers while they change; it computes the
count of a histogram from the buckets it copied, so that the two always agree.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final, NamedTuple

from prometheus_client.core import CounterMetricFamily, Exemplar, HistogramMetricFamily

from fivestage.observability.metric_table.spec import BUCKETS_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fivestage.core.codec.event_json import Envelope
    from fivestage.core.outcome import QueryOutcome
    from fivestage.observability.metric_table.spec import MetricSpec

_ODD: Final = b"13579bdf"
"""Last digits of trace flags with the flag *sampled*."""


class TraceRef(NamedTuple):
    """The trace of a sampled query, for exemplars."""

    trace_id: str
    """32 hexadecimal digits."""
    at: float
    """When the query ended, seconds since the epoch."""


def sampled(query: Envelope, outcome: QueryOutcome) -> TraceRef | None:
    """Return the trace of a query that has ended; None if it is not sampled."""
    headers = query.trace_headers
    if not headers or headers[0][1][-1] not in _ODD:
        return None
    return TraceRef(headers[0][1][3:35].decode(), query.started_wall + outcome.duration_s)


class Tally:
    """A histogram of durations: counts per bucket, the sum in seconds, and the last trace in each bucket."""

    __slots__ = ("_bounds", "_traces", "counts", "sum_s")

    def __init__(self, bounds: tuple[float, ...] = BUCKETS_S) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum_s = 0.0
        self._traces: dict[int, tuple[TraceRef, float]] = {}
        """By bucket; with the duration."""

    def observe(self, seconds: float, trace: TraceRef | None = None) -> None:
        """Count one duration; keep the trace if there is one."""
        bucket = bisect_left(self._bounds, seconds)
        self.counts[bucket] += 1
        self.sum_s += seconds
        if trace is not None:
            self._traces[bucket] = trace, seconds

    def add(self, other: Tally) -> None:
        """Add the counts of another histogram with the same buckets, and keep the newest traces."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum_s += other.sum_s
        for bucket, seen in dict(other._traces).items():
            mine = self._traces.get(bucket)
            if mine is None or mine[0].at <= seen[0].at:
                self._traces[bucket] = seen

    def copy(self) -> Tally:
        """Return a copy, whose numbers do not change."""
        copied = Tally(self._bounds)
        copied.add(self)
        return copied

    def buckets(self) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
        """Return Prometheus's cumulative buckets, with an exemplar where there is a trace."""
        found: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        so_far = 0
        for bucket, (bound, count) in enumerate(zip((*self._bounds, "+Inf"), self.counts, strict=True)):
            so_far += count
            if bucket in self._traces:
                (trace_id, at), seconds = self._traces[bucket]
                found.append((str(bound), float(so_far), Exemplar({"trace_id": trace_id}, seconds, at)))
            else:
                found.append((str(bound), float(so_far)))
        return found


def histogram(spec: MetricSpec, found: Mapping[tuple[str, ...], Tally]) -> HistogramMetricFamily:
    """Return histograms by the values of their labels."""
    family = HistogramMetricFamily(spec.name, spec.meaning, labels=spec.labels)
    for values, tally in found.items():
        family.add_metric(values, tally.buckets(), tally.sum_s)
    return family


def counter(spec: MetricSpec, found: Mapping[tuple[str, ...], int]) -> CounterMetricFamily:
    """Return counts by the values of their labels."""
    family = CounterMetricFamily(spec.name, spec.meaning, labels=spec.labels)
    for values, count in found.items():
        family.add_metric(values, count)
    return family
