"""Reads from the parts of the service what they do now, for the status document."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from fivestage.core.adaptive.breaker import BreakerState
from fivestage.core.routing_snapshot import UNKNOWN
from fivestage.observability.build_info import COMPILED, __version__
from fivestage.observability.status.durations import BUCKETS, percentiles_ms, total_s
from fivestage.observability.status.figures import MAX_NODES
from fivestage.observability.status.summary import iso, outcomes
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fivestage.core.ledger import Ledger, PartitionKey
    from fivestage.core.routing_snapshot import NodeRouting
    from fivestage.dispatch.dispatcher import Dispatcher
    from fivestage.executors import Executor
    from fivestage.observability.status.figures import NodeFigures
    from fivestage.observability.status.model import (
        AbandonedCall,
        Failure,
        Lag,
        Load,
        Node,
        Partition,
        ServiceInfo,
        Stage,
        State,
        Workers,
    )
    from fivestage.observability.status.recorder import StatusRecorder
    from fivestage.service.health import Health, HealthMonitor
    from fivestage.settings import Settings

MAX_PARTITIONS: Final = 256
"""How many partitions are listed, those with the largest lag first."""
MAX_ABANDONED: Final = 64
_CLOSED: Final = BreakerState.CLOSED
_STAGES: Final = frozenset(map(str, StageType))


class Readings:
    """The sections of the document that show what is now. Used on the bus loop.

    Args:
        settings: All settings.
        recorder: Has the figures.
        dispatcher: Has the queries and what is learned.
        executor: Has the abandoned calls.
        ledger: Has the partitions.
        health: Decides whether the service lives.
        ready: Returns whether it is ready, with the cause if it is not.
        lags: Returns how many records of each partition were not taken in yet.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        recorder: StatusRecorder,
        dispatcher: Dispatcher,
        executor: Executor,
        ledger: Ledger,
        health: HealthMonitor,
        ready: Callable[[], Health],
        lags: Callable[[], dict[PartitionKey, int]],
    ) -> None:
        self.settings = settings
        self.recorder = recorder
        self.dispatcher = dispatcher
        self.health = health
        self.ready = ready
        self.lags = lags
        self._executor = executor
        self._ledger = ledger

    def service(self, uptime_s: float) -> ServiceInfo:
        """Which process this is, and its state."""
        settings, health = self.settings, self.ready()
        state: State = "ready" if health.ok else "unready"
        if self.health.draining:
            state = "draining"
        elif not (health.ok or self.health.was_ready):
            state = "starting"
        return {
            "version": __version__,
            "compiled": COMPILED,
            "state": state,
            "reason": health.reason,
            "live": self.health.live().ok,
            "group": settings.kafka.group_id,
            "topic": settings.topics.queries,
            "uptime_s": float(round(uptime_s)),
            "executor": settings.executor.kind,
            "workers": settings.executor.workers,
        }

    def load(self, now: float) -> Load:
        """What runs and waits."""
        slots, waits_since = self.dispatcher.slots, self.dispatcher.oldest_wait_since()
        return {
            "running": slots.running,
            "limit": slots.limit,
            "max_in_flight": self.settings.admission.max_in_flight,
            "waiting": self.dispatcher.waiting,
            "oldest_wait_ms": 0.0 if waits_since is None else round(max(0.0, now - waits_since) * 1000, 1),
            "in_flight": self.dispatcher.in_flight,
            "assigned": len(self._ledger.partitions),
        }

    def lag(self, now: float) -> Lag:
        """The lag of all assigned partitions."""
        return self.recorder.lag.total(self.lags(), now)

    def partitions(self, now: float) -> list[Partition]:
        """The assigned partitions by number; if there are too many, those with the largest lag."""
        lags, halted = self.lags(), self._ledger.guard.halted
        keys = sorted(self._ledger.partitions, key=lambda key: -lags.get(key, 0))[:MAX_PARTITIONS]
        return [
            {
                **self.recorder.lag.of(key, lags.get(key, 0), now),
                "topic": key.topic,
                "partition": key.partition,
                "uncommitted": self._ledger.partitions[key].span,
                "halted": key in halted,
            }
            for key in sorted(keys)
        ]

    def workers(self, now: float) -> Workers:
        """The executor, and the calls that it has left behind."""
        left: list[AbandonedCall] = []
        for call in self._executor.abandoned()[:MAX_ABANDONED]:
            is_stage = call.name in _STAGES
            stage, node = (call.name, None) if is_stage else (str(StageType.PROCESSING), call.name or None)
            left.append({"stage": stage, "node": node, "for_s": round(max(0.0, now - call.since), 1)})
        lag_s = self._executor.lag_s if self.dispatcher.active.jobs else 0.0  # else it is not measured
        return {
            "replaced": self.recorder.replaced,
            "blocked": self.recorder.blocked.total,
            "blocked_by": self.recorder.blocked.rows(),
            "abandoned": left,
            "bus_lag_ms": round(self.health.bus_lag_s * 1000, 1),
            "executor_lag_ms": round(lag_s * 1000, 1),
        }

    def stages(self) -> list[Stage]:
        """The five stages; the limits in force are those of the default lane."""
        learned, found = self.dispatcher.learned, self.recorder.figures.stages
        lane = learned.lanes.get(self.settings.lane)
        rows: list[Stage] = []
        totals = [counts.total() for counts in found]
        spent_s = [total_s(total) for total in totals]
        whole_s = sum(spent_s)
        for spec, total in zip(learned.plan.stages, totals, strict=True):
            ended, shares = outcomes(total)
            p50_ms, p95_ms = percentiles_ms(total, (0.5, 0.95))
            limit_s = spec.limit_s if lane is None else lane.routing.stages[spec.sequence].limit_s
            rows.append(
                {
                    "stage": str(spec.stage_type),
                    "critical": spec.critical,
                    "limit_ms": round(spec.limit_s * 1000, 3),
                    "learned_ms": round(limit_s * 1000, 3),
                    "ended": ended,
                    "p50_ms": p50_ms,
                    "p95_ms": p95_ms,
                    "time_share": round(spent_s[spec.sequence] / whole_s, 4) if whole_s else None,
                    "outcomes": shares,
                }
            )
        return rows

    def nodes(self, now: float, seconds: float) -> Iterator[Node]:
        """Yield the nodes by lane that were called lately, and those whose breaker is not closed.

        Args:
            now: Monotonic seconds.
            seconds: The time that the calls were counted in.
        """
        routed: dict[tuple[str, str], NodeRouting] = {}
        called = self.recorder.figures.nodes
        for lane in self.dispatcher.learned.lanes.values():
            for name, node in lane.routing.nodes.items():
                key = lane.name, name
                if key in called or node.state is not _CLOSED:
                    routed[key] = node
        keys = sorted(called.keys() | routed.keys(), key=lambda key: (key not in called, key[1], key[0]))
        abandoned = Counter(call.name for call in self._executor.abandoned())
        for key in keys[: 2 * MAX_NODES]:
            row = self._node(key, routed.get(key, UNKNOWN), now, seconds)
            row["abandoned"] = abandoned[row["node"]]
            yield row

    def _node(self, key: tuple[str, str], routing: NodeRouting, now: float, seconds: float) -> Node:
        lane_name, name = key
        figures = self.recorder.figures.nodes.get(key)
        total = [0] * (BUCKETS + 1) if figures is None else figures.counts.total()
        calls, failed = sum(total[:BUCKETS]), total[BUCKETS]
        p50_ms, p95_ms = percentiles_ms(total, (0.5, 0.95))
        since = self.recorder.open_since.get(key)
        failing = None if figures is None else figures.failing_since
        blocked, blocked_at = self.recorder.blocked.count_of(name)
        return {
            "node": name,
            "lane": lane_name,
            "calls_per_s": round(calls / seconds, 2),
            "p50_ms": p50_ms,
            "p95_ms": p95_ms,
            "failed": round(failed / calls, 6) if calls else None,
            "failing_since": None if failing is None else iso(failing),
            "health": round(routing.score, 3),
            "breaker": routing.state.value,
            "breaker_since": None if since is None else iso(since),
            "retry_in_s": self._retry_in_s(key, now),
            "abandoned": 0,
            "last_failure": None if figures is None else self._last_failure(figures, now),
            "blocked": blocked,
            "blocked_at": blocked_at,
        }

    def _last_failure(self, figures: NodeFigures, now: float) -> Failure | None:
        """The last failure of a node; made once, because the two clocks never differ by quite the same."""
        run = figures.failure
        if run is not None and (figures.shown is None or figures.shown[0] is not run):
            at = iso(self.recorder.wall_clock() - now + (run.started_at or now) + run.duration_s)
            kind = run.error_type or str(run.outcome)
            figures.shown = run, {"at": at, "error_type": kind, "where": run.where}
        return None if figures.shown is None else figures.shown[1]

    def _retry_in_s(self, key: tuple[str, str], now: float) -> float | None:
        lane = self.dispatcher.learned.lanes.get(key[0])
        node = None if lane is None else lane.nodes.get(key[1])
        seconds = None if node is None else node.breaker.retry_in_s(now)
        return None if seconds is None else round(seconds, 1)
