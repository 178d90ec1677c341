"""A transactional producer on a real broker: its markers and aborted records are no queries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confluent_kafka import Producer

from support.checker import wait_for_results
from support.feeder import event
from support.operations import until
from support.probe import metrics
from support.process import ServiceProcess

from .test_service import settings_for

if TYPE_CHECKING:
    from .broker import RealBroker
    from .conftest import MakeTopics


def test_a_topic_that_was_read_has_no_lag(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """Of a committed and an aborted transaction the committed is answered, and the lag is 0 after both."""
    topics = make_topics(1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": topics.prefix})
    producer.init_transactions(30)
    for name in ("committed", "aborted"):
        producer.begin_transaction()
        for number in range(3):
            producer.produce(topics.queries, event(f"{name}-{number}", "fast"), key=name)
        assert producer.flush(30) == 0  # else an abort drops them before they are written
        if name == "committed":
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
    lag = f'{{partition="0",topic="{topics.queries}"}}'
    with ServiceProcess("support.apps:load", kafka.bootstrap, settings_for(topics)) as service:
        port = int(service.log[-1]["admin_port"])
        wait_for_results(kafka.bootstrap, topics.results, 3)
        until(lambda: metrics(port, "fivestage_lag") == {lag: 0.0}, "no lag", 30)
        consumed = metrics(port, "messaging_client_consumed_messages_total")
        assert list(consumed.values()) == [3.0]
        assert service.end() == 0
