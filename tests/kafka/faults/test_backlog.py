"""Backlogs: old queries, many queries, slow stages."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer

from fivestage_schemas import TimeoutEvent
from kafka.test_service import settings_for
from support.checker import ONCE, check, committed, read_all, wait_until_committed
from support.embedded import patient
from support.feeder import event, write
from support.operations import port_of, until
from support.probe import metrics
from support.process import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kafka.broker import RealBroker
    from kafka.conftest import MakeTopics
    from support.operations import RecordProperty

pytestmark = pytest.mark.kafka
HOUR_MS = 3_600_000


def write_as_of(bootstrap: str, topic: str, ids: Iterable[str], timestamp_ms: int) -> None:
    """Write queries whose records have an earlier timestamp."""
    failures: list[object] = []
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5})
    for name in ids:
        producer.produce(
            topic,
            event(name, "fast"),
            key=name,
            timestamp=timestamp_ms,
            on_delivery=lambda error, _: failures.append(error),
        )
        producer.poll(0)
    assert producer.flush(60) == 0
    assert not any(failures)


@pytest.mark.fault(18)
def test_a_backlog_of_expired_queries(
    kafka: RealBroker, make_topics: MakeTopics, record_property: RecordProperty
) -> None:
    """Each has its `expired` answer, none runs."""
    topics = make_topics(8)
    ids = [f"q{number}" for number in range(2000)]
    write_as_of(kafka.bootstrap, topics.queries, ids, int(time.time() * 1000) - HOUR_MS)
    settings = settings_for(topics, admission__query_ttl_ms=60_000)
    with (
        ServiceProcess("support.apps:load", kafka.bootstrap, settings) as service,
    ):
        ready_at = time.monotonic()
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, len(ids))
        record_property("expired queries a second", round(len(ids) / (time.monotonic() - ready_at)))
        assert service.end() == 0
    report = check(kafka.bootstrap, topics, ids, limits=ONCE)
    assert report.silent, report
    assert report.statuses == {"expired": len(ids)}
    assert read_all(kafka.bootstrap, topics.stage_results) == []
    found = [
        TimeoutEvent.model_validate_json(m.value() or b"") for m in read_all(kafka.bootstrap, topics.timeouts)
    ]
    assert {(one.scope, one.reason) for one in found} == {("queue", "expired_before_start")}
    assert len(found) == len(ids)


def peak_mb(pid: int) -> float:
    """Return the peak memory of a process, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


@pytest.mark.fault(20)
@pytest.mark.parametrize("count", [4000, pytest.param(100_000, marks=pytest.mark.long)])
def test_a_large_backlog(
    kafka: RealBroker, make_topics: MakeTopics, record_property: RecordProperty, count: int
) -> None:
    """All are answered once, however long they wait, and memory does not depend on the backlog's size."""
    topics = make_topics(8)
    ids = [f"q{number}" for number in range(count)]
    write(kafka.bootstrap, topics.queries, ((name, event(name, "fast " + "x" * 200)) for name in ids))
    with (
        ServiceProcess("support.apps:load", kafka.bootstrap, settings_for(topics) | patient()) as service,
    ):
        ready_at = time.monotonic()
        assert service.process is not None
        at_first = peak_mb(service.process.pid)
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, count, limit_s=400)
        record_property("backlog", count)
        record_property("queries a second", round(count / (time.monotonic() - ready_at)))
        peak = peak_mb(service.process.pid)
        record_property("peak MB", f"{at_first:.0f} -> {peak:.0f}")
        assert service.end() == 0
    report = check(kafka.bootstrap, topics, ids, limits=ONCE)
    assert report.silent, report
    assert report.statuses == {"success": count}
    assert peak < at_first + 100


@pytest.mark.fault(21)
def test_slow_stages_and_fast_input(
    kafka: RealBroker, make_topics: MakeTopics, record_property: RecordProperty
) -> None:
    """Queries in memory are bounded, fetching pauses, and the member stays in its group."""
    topics = make_topics(4)
    ids = [f"q{number}" for number in range(3000)]
    settings = settings_for(
        topics,
        admission__max_in_flight=16,
        pipeline__total_timeout_ms=3000,
        pipeline__stage_timeouts_ms={"processing": 3000},
        kafka__session_timeout_ms=3000,
        kafka__heartbeat_interval_ms=800,
    )
    seen: list[dict[str, float]] = []
    with ServiceProcess("support.pipelines:app", kafka.bootstrap, settings) as service:
        port, ends_at = port_of(service), (datetime.now(UTC) + timedelta(seconds=7)).isoformat()
        values = ((name, event(name, "naps 1.5", deadline=ends_at)) for name in ids)
        write(kafka.bootstrap, topics.queries, values)

        def worked_off() -> bool:
            names = ("in_flight", "waiting", "rebalances_total")
            seen.append({name: sum(metrics(port, f"fivestage_{name}").values()) for name in names})
            return sum(committed(kafka.bootstrap, topics.prefix, topics.queries).values()) == len(ids)

        until(worked_off, "all are answered")
        assert service.end() == 0
    report = check(kafka.bootstrap, topics, ids, limits=ONCE)
    record_property("most in flight", max(one["in_flight"] for one in seen))
    record_property("most waiting", max(one["waiting"] for one in seen))
    assert report.silent, report
    assert report.statuses["success"] > 0
    assert max(one["in_flight"] for one in seen) == 16
    assert max(one["waiting"] for one in seen) <= 256 + 16
    assert {one["rebalances_total"] for one in seen} == {1}
