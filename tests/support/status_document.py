"""A document of ``/api/status``: a service with a broken node, a halted partition and lag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fivestage.observability.status.model import Node, Partition, RecentQuery, Stage, Status

AT = "2026-01-31T14:02:20+00:00"


def stage(name: str, **fields: Any) -> Stage:
    """Return a stage that is fast and never fails."""
    found: Any = {
        "stage": name,
        "critical": True,
        "limit_ms": 120.0,
        "learned_ms": 120.0,
        "ended": 100,
        "p50_ms": 1.0,
        "p95_ms": 2.0,
        "time_share": 0.02,
        "outcomes": {"success": 1.0},
        **fields,
    }
    return found  # type: ignore[no-any-return]


def node(name: str, **fields: Any) -> Node:
    """Return a healthy node."""
    found: Any = {
        "node": name,
        "lane": "prod",
        "calls_per_s": 101.0,
        "p50_ms": 1.0,
        "p95_ms": 2.0,
        "failed": 0.0,
        "failing_since": None,
        "health": 1.0,
        "breaker": "closed",
        "breaker_since": None,
        "retry_in_s": None,
        "abandoned": 0,
        "last_failure": None,
        "blocked": 0,
        "blocked_at": None,
        **fields,
    }
    return found  # type: ignore[no-any-return]


def partition(number: int, **fields: Any) -> Partition:
    """Return a partition without lag."""
    found: Any = {
        "topic": "queries",
        "partition": number,
        "records": 0,
        "trend": "steady",
        "catch_up_s": None,
        "uncommitted": 0,
        "halted": False,
        **fields,
    }
    return found  # type: ignore[no-any-return]


def query(query_id: str, **fields: Any) -> RecentQuery:
    """Return a query whose node failed."""
    found: Any = {
        "at": AT,
        "query_id": query_id,
        "lane": "prod",
        "status": "error",
        "degraded": False,
        "duration_ms": 125.0,
        "budget_ms": 250.0,
        "queue_ms": 4.0,
        "stage": "processing",
        "node": "pricing",
        "error_type": "ConnectionError",
        "where": "/srv/pricing.py:31",
        "trace_id": None,
        "attempts": [
            {
                "stage": "processing",
                "node": "pricing",
                "attempt": 1,
                "outcome": "error",
                "start_ms": 5.0,
                "duration_ms": 120.0,
                "limit_ms": 120.0,
                "error_type": "ConnectionError",
            }
        ],
        "why": "processing (pricing) failed with ConnectionError after 120 ms",
        "text": None,
        **fields,
    }
    return found  # type: ignore[no-any-return]


def status(**fields: Any) -> Status:
    """Return a document with other top-level keys."""
    failure = {"at": AT, "error_type": "ConnectionError", "where": "/srv/pricing.py:31"}
    opened = {"breaker": "open", "breaker_since": "2026-01-31T14:02:11+00:00", "retry_in_s": 4.0}
    found: Any = {
        "schema_version": "1",
        "at": AT,
        "service": {
            "version": "0.4.0",
            "compiled": True,
            "state": "ready",
            "reason": "",
            "live": True,
            "group": "fivestage",
            "topic": "queries",
            "uptime_s": 11_520.0,
            "executor": "thread",
            "workers": 1,
        },
        "objective": 0.995,
        "budget_ms": 250.0,
        "windows": [
            {"window_s": 300.0, "ended": 1000, "in_time": 0.9941, "burn_rate": 1.2},
            {"window_s": 3600.0, "ended": 9000, "in_time": 0.9987, "burn_rate": 0.3},
        ],
        "rates": {
            "answered": 412.0,
            "timeouts": 0.0,
            "errors": 1.2,
            "expired": 3.0,
            "rejected": 0.0,
            "dead_letters": 0.0,
        },
        "latency": {"p50_ms": 48.0, "p95_ms": 121.0, "p99_ms": 188.0},
        "series": {
            "interval_s": 5.0,
            "started_at": AT,
            "ended": [10, 20, 30, 5],
            "in_time": [1.0, 0.9, None, 1.0],
            "p50_ms": [40.0, 41.0, None, 42.0],
            "p95_ms": [90.0, 95.0, None, 99.0],
            "running": [1, 2, 3, 4],
            "lag": [0, 0, 10, 12],
        },
        "stages": [
            stage("intent"),
            stage("decision"),
            stage(
                "processing",
                p50_ms=41.0,
                p95_ms=96.0,
                time_share=0.92,
                learned_ms=144.0,
                outcomes={"timeout": 0.004},
            ),
            stage("validation", critical=False),
            stage("reflection", critical=False),
        ],
        "between": {"p50_ms": 5.0, "p95_ms": 9.0, "share": 0.1},
        "nodes": [
            node("facts"),
            node("llm", p50_ms=41.0, p95_ms=96.0, failed=0.004, blocked=3, blocked_at=AT),
            node("pricing", failed=1.0, health=0.02, last_failure=failure, **opened),
        ],
        "load": {
            "running": 38,
            "limit": 180,
            "max_in_flight": 256,
            "waiting": 2,
            "oldest_wait_ms": 12.0,
            "in_flight": 40,
            "assigned": 300,
        },
        "lag": {"records": 12, "trend": "falling", "catch_up_s": 30.0},
        "partitions": [partition(0, records=12, trend="falling"), partition(1, halted=True)],
        "workers": {
            "replaced": 2,
            "blocked": 3,
            "blocked_by": [{"name": "llm", "count": 3, "at": AT, "where": "/srv/llm.py:7 ask"}],
            "abandoned": [{"stage": "processing", "node": "pricing", "for_s": 4.0}],
            "bus_lag_ms": 1.0,
            "executor_lag_ms": 2.0,
        },
        "recent": [query("q-8812"), query("q-8810", status="success", degraded=True)],
        "events": [
            {
                "at": AT,
                "level": "warning",
                "text": "breaker opened",
                "times": 2,
                "fields": {"reason": "14 of 20 calls failed", "node": "pricing", "lane": "prod"},
            }
        ],
        **fields,
    }
    return found  # type: ignore[no-any-return]
