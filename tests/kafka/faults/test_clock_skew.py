"""Instances of one group whose wall clocks differ by minutes from each other and the broker."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kafka.test_service import settings_for
from support.checker import Limits, check, read_all, wait_until_committed
from support.events import instant
from support.feeder import Feeder
from support.process import ServiceProcess

if TYPE_CHECKING:
    from kafka.broker import RealBroker, TopicSet
    from kafka.conftest import MakeTopics

pytestmark = pytest.mark.kafka
SKEW_S = 300
FOLDER = Path(__file__).parents[2] / "support" / "skewed"
GENEROUS = {"pipeline__total_timeout_ms": 5000, "pipeline__stage_timeouts_ms": {"processing": 4000}}


def skewed(kafka: RealBroker, topics: TopicSet, skew_s: int) -> ServiceProcess:
    """Start a service with a skewed clock."""
    path = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"PYTHONPATH": path, "FIVESTAGE_TEST_SKEW_S": str(skew_s)}
    settings = settings_for(topics, **GENEROUS)
    return ServiceProcess("support.apps:load", kafka.bootstrap, settings, environment=environment)


@pytest.mark.fault(19)
def test_clocks_that_disagree(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """All is answered; nothing expires, is committed early or lost; waits are never negative."""
    topics = make_topics(8)
    with (
        skewed(kafka, topics, SKEW_S) as fast,
        skewed(kafka, topics, -SKEW_S) as slow,
        Feeder(kafka.bootstrap, topics.queries, count=400, rate=400) as feeder,
    ):
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 400)
        assert (fast.end(), slow.end()) == (0, 0)
    by_its_own_clock = Limits(written_late_s=None)  # the broker's
    report = check(kafka.bootstrap, topics, feeder.ids, limits=by_its_own_clock)
    assert report.silent, report
    assert report.statuses["success"] > 0
    assert set(report.statuses) <= {"success", "timeout"}  # on a busy machine some are not in time
    ahead = set()
    for message in read_all(kafka.bootstrap, topics.results):
        value = json.loads(message.value() or b"")
        started = instant(value["started_at"])
        assert started is not None
        off_s = started - message.timestamp()[1] / 1000  # the broker's
        ahead.add(off_s > 0)
        assert abs(abs(off_s) - SKEW_S) < SKEW_S / 2
        assert (value["metrics"]["queue_ms"] > 0) == (off_s > 0)  # a timestamp in the future has age 0
    assert ahead == {True, False}
