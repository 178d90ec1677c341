"""Metrics of the calls of nodes."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from fivestage.observability.metric_table import queries as table
from fivestage.observability.metric_table.spec import NODE_BUCKETS_S
from fivestage.observability.tally import Tally, counter, histogram
from fivestage_schemas import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prometheus_client.core import Metric

    from fivestage.core.stage_run import StageRun
    from fivestage.observability.label_bounds import Bounded
    from fivestage.observability.tally import TraceRef

EXCUSED: Final = "excused"
"""The outcome of a call that raised to say that its query has no answer: that is no failure of the node."""
OVERTAKEN: Final = "overtaken"
"""That of a call that was given up, as one beside it had answered. Its duration says little."""
_SKIPPED: Final = Outcome.SKIPPED


class NodeMetrics:
    """Prometheus collector of the calls of nodes, by lane and node.

    Args:
        names: Limits the number of pairs of lane and node.
    """

    def __init__(self, names: Bounded) -> None:
        self._names = names
        self._calls: dict[tuple[str, str, str], Tally] = {}
        """Durations by lane, node and outcome."""

    def count(self, lane: str, runs: Sequence[StageRun], trace: TraceRef | None) -> None:
        """Count the calls among the attempts of a query; *lane* is limited already."""
        calls = self._calls
        for run in runs:
            node = run.node
            if node is None or run.started_at is None or (run.outcome is _SKIPPED and not run.overtaken):
                continue
            outcome = EXCUSED if run.excused else OVERTAKEN if run.overtaken else run.outcome
            tally = calls.get((lane, node, outcome))
            if tally is None:
                key = lane, self._names.of(node, lane), outcome
                tally = calls.setdefault(key, Tally(NODE_BUCKETS_S))
            tally.observe(run.duration_s, trace)

    def describe(self) -> list[Metric]:
        """Return all metrics, for the registry's check that names are unique."""
        return list(self.collect())

    def collect(self) -> Iterable[Metric]:
        """Return all metrics as they are now; runs in another thread than the one that counts."""
        durations: dict[tuple[str, ...], Tally] = defaultdict(lambda: Tally(NODE_BUCKETS_S))
        totals: dict[tuple[str, ...], int] = {}
        for (lane, node, outcome), tally in list(self._calls.items()):
            seen = tally.copy()
            if outcome != OVERTAKEN:
                durations[lane, node].add(seen)
            totals[lane, node, outcome] = sum(seen.counts)
        yield counter(table.NODE_CALLS, totals)
        yield histogram(table.NODE_DURATION, durations)
