"""The start of a group, its topics, and warnings about topics without replication."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from fivestage.kafka import topics as checks
from fivestage.kafka.durability import warn_of_loss, weak_topics
from fivestage.kafka.topic_info import TopicInfo
from fivestage.settings import KafkaSettings, Settings
from support.checker import json_of, read_all, wait_for_results, wait_until_committed
from support.feeder import event, write
from support.operations import Operator
from support.process import ServiceProcess

from .test_service import settings_for

if TYPE_CHECKING:
    from .broker import RealBroker, TopicSet
    from .conftest import MakeTopics

APP = "support.apps:load"


def ask(kafka: RealBroker, topic: str, name: str) -> None:
    """Write a query."""
    write(kafka.bootstrap, topic, [(name, event(name, "fast"))])


def test_a_group_that_starts_at_the_end(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """Earlier records are not answered, and the end is committed before any answer."""
    topics = make_topics(1)
    ask(kafka, topics.queries, "before")
    settings = settings_for(topics, kafka__auto_offset_reset="latest")
    with ServiceProcess(APP, kafka.bootstrap, settings) as service:
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 1)
        ask(kafka, topics.queries, "after")
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 2)
        assert service.end() == 0
    assert [json_of(one)["query_id"] for one in read_all(kafka.bootstrap, topics.results)] == ["after"]


def test_a_group_that_may_not_choose_where_to_start(kafka: RealBroker, topics: TopicSet) -> None:
    """Exit code 2, and a line that names the group, the partition and the remedy."""
    settings = settings_for(topics, kafka__auto_offset_reset="error")
    service = ServiceProcess(APP, kafka.bootstrap, settings)
    service.launch()
    assert service.wait() == 2
    assert f"group {topics.prefix!r} cannot read partition" in service.log[-1]["error"]
    assert "kafka-consumer-groups --reset-offsets" in service.log[-1]["error"]


@pytest.mark.long  # the new topic is seen after METADATA_MAX_AGE_MS
def test_a_topic_that_matches_the_pattern_later(kafka: RealBroker, topics: TopicSet) -> None:
    """It is read without a restart."""
    settings = settings_for(topics) | {"topics.queries": rf"^{topics.prefix}\.queries"}
    with ServiceProcess(APP, kafka.bootstrap, settings) as service:
        ask(kafka, topics.queries, "first")
        Operator(kafka.bootstrap).create_topic(f"{topics.queries}.more", 2)
        ask(kafka, f"{topics.queries}.more", "second")
        wait_for_results(kafka.bootstrap, topics.results, 2)
        assert service.end() == 0


async def test_topics_with_one_replica(
    kafka: RealBroker, topics: TopicSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off loopback a warning names them all; on loopback there is none."""
    values = settings_for(topics, kafka__bootstrap_servers=kafka.bootstrap, kafka__allow_plaintext=True)
    sections: dict[str, dict[str, object]] = {"kafka": {}, "topics": {}}
    for key, value in values.items():
        section, _, name = key.partition(".")
        sections[section][name] = value
    settings = Settings.load(None, sections)
    found = await checks.check(settings)
    said = {}
    for is_local in (True, False):
        monkeypatch.setattr(KafkaSettings, "is_local", is_local)
        with capture_logs() as log:
            await warn_of_loss(settings, found)
        said[is_local] = [(line["event"], line["topics"]) for line in log]
    assert said == {True: [], False: [("topics with one replica", sorted(topics.names))]}
    in_sync = await checks.output_configs(settings, "min.insync.replicas")
    assert in_sync == {name: 1 for name in topics.names if name != topics.queries}


def test_topics_that_acknowledge_too_soon() -> None:
    """One in-sync replica is named where there are several; a single replica is the worse fault."""
    found = {name: TopicInfo(name, 1, replicas=count) for name, count in {"a": 3, "b": 1, "c": 3}.items()}
    assert weak_topics(found, {"a": 1, "b": 1, "c": 2}) == (["b"], ["a"])
