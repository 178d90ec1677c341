"""Shutdowns and suspensions: signals, stuck threads, a stopped process."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from kafka.test_service import settings_for
from support.checker import (
    UNTIMED,
    check,
    committed,
    json_of,
    read_all,
    wait_for_results,
    wait_until_committed,
)
from support.feeder import Feeder, event, write
from support.operations import port_of, until, wait_for_partitions
from support.pipelines import HELD
from support.probe import metrics
from support.process import ServiceProcess

if TYPE_CHECKING:
    from pathlib import Path

    from kafka.broker import RealBroker
    from kafka.conftest import MakeTopics
    from support.operations import RecordProperty

pytestmark = pytest.mark.kafka
APP = "support.pipelines:app"
PATIENT = {
    "pipeline__total_timeout_ms": 60_000,
    "pipeline__stage_timeouts_ms": {"processing": 60_000},
    "adaptive__enabled": False,
}
SESSION_S = 2
SHORT_SESSION = {"kafka__session_timeout_ms": SESSION_S * 1000, "kafka__heartbeat_interval_ms": 500}
LONG = pytest.mark.long
NAP = "naps 0.08"
"""Below the limit, and long enough that some always run: 16 at 200/s."""


@pytest.mark.fault(10)
def test_a_second_sigterm_ends_at_once(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """The first signal waits for a query of a minute, the second ends at once; nothing is lost."""
    topics = make_topics(1)
    settings = settings_for(topics, **SHORT_SESSION)
    write(kafka.bootstrap, topics.queries, [("a", event("a", "naps 50"))])
    drain = {"shutdown.drain_timeout_ms": 50_000, "shutdown.total_timeout_ms": 55_000}
    with ServiceProcess(APP, kafka.bootstrap, settings | settings_for(topics, **PATIENT) | drain) as first:
        port = port_of(first)
        until(lambda: metrics(port, "fivestage_in_flight") == {"": 1}, "the query runs")
        assert first.process is not None
        first.process.send_signal(signal.SIGTERM)
        assert first.wait_for("draining")["in_flight"] == 1
        assert first.end() == 1
    assert committed(kafka.bootstrap, topics.prefix, topics.queries) == {}
    with ServiceProcess(APP, kafka.bootstrap, settings) as second:
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 1)
        assert second.end() == 0
    report = check(kafka.bootstrap, topics, ["a"])
    assert report.silent, report


@pytest.mark.fault(10, 17)
def test_sigterm_with_threads_that_are_stuck(
    kafka: RealBroker, make_topics: MakeTopics, record_property: RecordProperty
) -> None:
    """Lost threads delay neither their queries nor the end of the process."""
    topics = make_topics(1)
    ids = [f"q{number}" for number in range(3)]
    write(kafka.bootstrap, topics.queries, [(name, event(name, "stuck")) for name in ids])
    with ServiceProcess(APP, kafka.bootstrap, settings_for(topics)) as service:
        wait_for_results(kafka.bootstrap, topics.results, 3)
        asked_at = time.monotonic()
        assert service.end() == 0
        record_property("end with stuck threads, s", round(time.monotonic() - asked_at, 1))
    report = check(kafka.bootstrap, topics, ids)
    assert report.silent, report
    assert report.statuses == {"timeout": 3}
    assert committed(kafka.bootstrap, topics.prefix, topics.queries) == {0: 3}


@pytest.mark.fault(14)
@pytest.mark.parametrize(
    ("how", "held_s"),
    [
        pytest.param("suspends", 1),
        pytest.param("suspends", 4, marks=LONG),
        pytest.param("holds", 1, marks=LONG),
        pytest.param("holds", 4),
    ],
)
def test_the_process_is_suspended(
    kafka: RealBroker, make_topics: MakeTopics, tmp_path: Path, how: str, held_s: int
) -> None:
    """A query that runs then times out; after more than a session the member rejoins; nothing is lost."""
    topics = make_topics(4)
    held_for_long = held_s > SESSION_S
    held = tmp_path / "held"
    settings = settings_for(topics, **(SHORT_SESSION if held_for_long else {}))
    with (
        ServiceProcess(APP, kafka.bootstrap, settings, environment={HELD: str(held)}) as service,
        Feeder(
            kafka.bootstrap, topics.queries, count=1600 + 200 * held_s, rate=200, user_input=NAP
        ) as feeder,
    ):
        wait_for_results(kafka.bootstrap, topics.results, 100)
        ids = [*feeder.ids, *_write_until_held(kafka.bootstrap, topics.queries, f"{how} {held_s}", held)]
        if how == "suspends":
            _continue_later(service, held_s)
        if held_for_long:
            wait_for_partitions(service, 4)
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, len(ids))
        assert service.end() == 0
    assigned = [line for line in service.log if line["event"] == "assigned"]
    assert len(assigned) >= 2 if held_for_long else len(assigned) == 1
    report = check(kafka.bootstrap, topics, ids, limits=UNTIMED)
    assert report.silent, report
    results = [json_of(message) for message in read_all(kafka.bootstrap, topics.results)]
    assert "timeout" in {result["status"] for result in results if result["query_id"] == held.read_text()}
    for result in results:
        if result["status"] == "success":  # not later ones
            took_ms = sum(stage["duration_ms"] for stage in result["stages"] if stage["success"])
            assert took_ms <= result["metrics"]["budget_ms"]


@pytest.mark.fault(14)
@LONG
def test_a_query_that_costs_the_membership(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """Its answer cannot be committed, so it is fetched again; the third time it is `expired`."""
    topics = make_topics(1)
    with ServiceProcess(APP, kafka.bootstrap, settings_for(topics, **SHORT_SESSION)) as service:
        write(kafka.bootstrap, topics.queries, [("held", event("held", f"grips {2 * SESSION_S}"))])
        service.wait_for("assigned")
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 1)
        assert service.end() == 0
    results = [json_of(message)["status"] for message in read_all(kafka.bootstrap, topics.results)]
    assert results == ["timeout", "timeout", "expired"]
    report = check(kafka.bootstrap, topics, ["held"], limits=UNTIMED)
    assert report.silent, report


def _write_until_held(bootstrap: str, topic: str, user_input: str, held: Path) -> list[str]:
    """Write queries until one holds the process: on a busy machine some wait too long and never run."""
    ids: list[str] = []

    def is_held() -> bool:
        if not held.exists():
            ids.append(f"held{len(ids)}")
            write(bootstrap, topic, [(ids[-1], event(ids[-1], user_input))])
        return held.exists()

    until(is_held, "a query holds the process")
    return ids


def _continue_later(service: ServiceProcess, held_s: int) -> None:
    """Wait until the process is suspended and let it continue: the duration is the fault itself."""
    assert service.process is not None
    pid, is_stopped = service.process.pid, os.WSTOPPED | os.WNOHANG
    until(lambda: os.waitid(os.P_PID, pid, is_stopped) is not None, "the process is suspended")
    time.sleep(held_s)
    service.process.send_signal(signal.SIGCONT)
