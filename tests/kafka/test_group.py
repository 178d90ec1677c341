"""Several members of one group: a rebalance loses nothing, repeats little, commits nothing early."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from support.checker import CUT_OFF, ONCE, UNTIMED, check, committed, wait_for_results, wait_until_committed
from support.embedded import patient
from support.feeder import Feeder
from support.operations import wait_for_partitions
from support.process import ServiceProcess

from .test_service import settings_for

if TYPE_CHECKING:
    from .broker import RealBroker
    from .conftest import MakeTopics

APP = "support.apps:load"


@pytest.mark.fault(5, 6)
def test_join_and_leave_under_load(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """A second member joins and leaves under load: nothing is lost and commits never go ahead or back."""
    topics = make_topics(8)
    # A rebalance waits as long as queries may run, until their events are acknowledged.
    waits = {"kafka__rebalance_timeout_ms": 30_000, "kafka__request_timeout_ms": 40_000}
    settings = settings_for(topics, **waits) | patient()
    with (
        Feeder(kafka.bootstrap, topics.queries, count=2400, rate=240) as feeder,
        ServiceProcess(APP, kafka.bootstrap, settings) as first,
    ):
        feeder.wait_until_sent(600)
        with ServiceProcess(APP, kafka.bootstrap, settings) as second:
            first.wait_for("revoked")
            wait_for_partitions(first, 4)
            feeder.wait_until_sent(1800)
            assert second.end() == 0
        wait_for_partitions(first, 8)
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 2400)
        assert first.end() == 0
    report = check(kafka.bootstrap, topics, feeder.ids, limits=ONCE)
    assert report.silent, (report, [one for one in first.log + second.log if one["event"] == "revoked"])


@pytest.mark.fault(5)
def test_commit_inside_revoke(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """Records finished when partitions are revoked are committed first, so nothing is repeated."""
    topics = make_topics(4)
    never = settings_for(topics, kafka__commit_interval_ms=3_600_000)
    with (
        Feeder(kafka.bootstrap, topics.queries, count=1000, rate=2000) as feeder,
        ServiceProcess(APP, kafka.bootstrap, never) as first,
    ):
        wait_for_results(kafka.bootstrap, topics.results, 1000)
        assert committed(kafka.bootstrap, topics.prefix, topics.queries) == {}
        with ServiceProcess(APP, kafka.bootstrap, never) as second:
            revoked = first.wait_for("revoked")
            assert (revoked["drained"], revoked["committed"], revoked["abandoned"]) == (True, True, 0)
            assert sum(committed(kafka.bootstrap, topics.prefix, topics.queries).values()) == 1000
            assert second.end() == 0
        first.end(signal.SIGKILL)
    report = check(kafka.bootstrap, topics, feeder.ids, limits=ONCE)
    assert report.silent, report


def test_two_processes_of_one_instance_id(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """The second replaces the first, which exits with 1 and names the id; nothing is lost."""
    topics = make_topics(4)
    settings = settings_for(topics, kafka__group_instance_id="worker-1")
    with (
        Feeder(kafka.bootstrap, topics.queries, count=1500, rate=150) as feeder,
        ServiceProcess(APP, kafka.bootstrap, settings) as first,
    ):
        feeder.wait_until_sent(300)
        with ServiceProcess(APP, kafka.bootstrap, settings) as second:
            assert first.wait(60) == 1
            assert first.log[-1]["error_type"] == "FencedError"
            assert "kafka.group_instance_id = 'worker-1'" in first.log[-1]["error"]
            wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 1500)
            assert second.end() == 0
    report = check(kafka.bootstrap, topics, feeder.ids, limits=CUT_OFF)
    assert report.silent, report


def test_a_static_member_comes_back(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """Stopped for longer than its session and continued, it rejoins: no other has taken its place."""
    topics = make_topics(4)
    session = {"kafka__session_timeout_ms": 6000, "kafka__heartbeat_interval_ms": 300}
    settings = settings_for(topics, kafka__group_instance_id="worker-1", **session)
    with (
        Feeder(kafka.bootstrap, topics.queries, count=600, rate=150) as feeder,
        ServiceProcess(APP, kafka.bootstrap, settings) as service,
        ServiceProcess(APP, kafka.bootstrap, settings_for(topics, **session)) as other,
    ):
        assert service.process is not None
        service.process.send_signal(signal.SIGSTOP)
        wait_for_partitions(other, 4)
        service.process.send_signal(signal.SIGCONT)
        wait_for_partitions(other, 2)
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 600)
        assert other.end() == 0
        assert service.end() == 0
    report = check(kafka.bootstrap, topics, feeder.ids, limits=UNTIMED)
    assert report.silent, report
