"""The document of ``status_document`` with other figures, for tests of the status page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from support import status_document as sample

if TYPE_CHECKING:
    from fivestage.observability.status.model import Attempt, Node, RecentQuery, Stage, Status

FAILED_AT = "2026-05-04T14:02:19.000Z"
BROKEN: dict[str, Any] = {
    "failed": 1.0,
    "health": 0.02,
    "breaker": "open",
    "breaker_since": "2026-05-04T14:02:11.000Z",
    "retry_in_s": 4.0,
    "last_failure": {"at": FAILED_AT, "error_type": "ConnectionError", "where": "pricing.py:31"},
}
POINTS = 4


def stage(
    name: str, p50_ms: float | None, p95_ms: float | None, time_share: float | None, **outcomes: float
) -> Stage:
    """Build a stage whose limit was not changed."""
    ended = 1000 if p50_ms is not None else 0
    figures = {"ended": ended, "p50_ms": p50_ms, "p95_ms": p95_ms, "time_share": time_share}
    return sample.stage(name, limit_ms=100.0, learned_ms=100.0, outcomes=outcomes, **figures)


def node(name: str, *, broken: bool = False) -> Node:
    """Build a node."""
    return sample.node(name, calls_per_s=10.0, p50_ms=41.0, p95_ms=96.0, **(BROKEN if broken else {}))


def attempt(stage: str, node: str | None, outcome: str, start_ms: float | None) -> Attempt:
    """Build a call of a query."""
    return {
        "stage": stage,
        "node": node,
        "attempt": 1,
        "kind": "first",
        "outcome": outcome,
        "start_ms": start_ms,
        "waited_ms": 0.0,
        "duration_ms": 60.0,
        "limit_ms": 100.0,
        "error_type": "ConnectionError" if outcome == "error" else None,
    }


def failed_query(query_id: str) -> RecentQuery:
    """Build a query that failed."""
    return sample.query(
        query_id,
        at=FAILED_AT,
        duration_ms=62.0,
        queue_ms=1.5,
        where="pricing.py:31",
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        attempts=[
            attempt("intent", None, "success", 0.0),
            attempt("processing", "pricing", "error", 2.0),
            attempt("validation", None, "skipped", None),
        ],
        why="processing failed in node pricing.",
    )


def status_document() -> Status:
    """Build the document."""
    document = sample.status(
        at="2026-05-04T14:02:21.500Z",
        windows=[
            {"window_s": 300.0, "ended": 1000, "in_time": 0.987, "burn_rate": 2.6},
            {"window_s": 3600.0, "ended": 9000, "in_time": 0.999, "burn_rate": 0.2},
        ],
        series={
            "interval_s": 10.0,
            "started_at": "2026-05-04T14:01:45.000Z",
            "ended": [100] * POINTS,
            "in_time": [1.0, None, 0.9, 1.0],
            "p50_ms": [48.0, None, 50.0, 1.0],
            "p95_ms": [121.0, None, 150.0, 1.0],
            "running": [38] * POINTS,
            "lag": [12] * POINTS,
        },
        stages=[
            stage("intent", 2.0, 9.0, 0.04, success=1.0),
            stage("decision", 0.2, 1.0, 0.01, success=1.0),
            stage("processing", 41.0, 96.0, 0.9, success=0.46, timeout=0.02, error=0.02, skipped=0.5),
            stage("validation", 3.0, 12.0, 0.05, success=1.0),
            stage("reflection", None, None, None),
        ],
        nodes=[node("llm"), node("pricing", broken=True)],
        lag={"records": 12, "trend": "rising", "catch_up_s": None},
        partitions=[sample.partition(3, records=12, trend="rising", uncommitted=9, halted=True)],
        workers={
            "replaced": 0,
            "blocked": 0,
            "blocked_by": [],
            "abandoned": [{"stage": "processing", "node": "pricing", "for_s": 4.2}],
            "bus_lag_ms": 0.4,
            "executor_lag_ms": 1.2,
        },
        recent=[failed_query("q-1")],
        events=[
            {
                "at": "2026-05-04T14:02:11.000Z",
                "level": "warning",
                "text": "breaker opened",
                "times": 3,
                "fields": {"reason": "14 of 20 calls failed", "node": "pricing", "lane": "prod"},
            },
            {
                "at": "2026-05-04T14:02:10.000Z",
                "level": "warning",
                "text": "node failed",
                "times": 1,
                "fields": {
                    "node": "pricing",
                    "stage": "processing",
                    "error_type": "ConnectionError",
                    "where": "/srv/app/pricing.py:31",
                    "query_id": "q-1",
                    "lane": "prod",
                    "count": 7,
                },
            },
        ],
    )
    document["rates"]["timeouts"] = 5.3
    return document
