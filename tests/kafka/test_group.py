"""Several members of one group: what a rebalance must not lose, repeat or commit."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from support.checker import ONCE, check, committed, wait_for_results
from support.feeder import Feeder
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
    settings = settings_for(topics)
    with (
        Feeder(kafka.bootstrap, topics.queries, count=6000, rate=600) as feeder,
        ServiceProcess(APP, kafka.bootstrap, settings) as first,
    ):
        feeder.wait_until_sent(1500)
        with ServiceProcess(APP, kafka.bootstrap, settings) as second:
            first.wait_for("revoked")
            assert len(first.wait_for("assigned")["partitions"]) == 4
            feeder.wait_until_sent(4500)
            assert second.end() == 0
        assert len(first.wait_for("assigned")["partitions"]) == 8
        wait_for_results(kafka.bootstrap, topics.results, 6000)
        assert first.end() == 0
    report = check(kafka.bootstrap, topics, feeder.ids, limits=ONCE)
    assert report.silent, report


@pytest.mark.fault(5)
def test_commit_inside_revoke(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """What is finished when partitions are taken away is committed first, so nothing is repeated."""
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
