"""One of several brokers accepts connections and never answers: only its own partitions suffer."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer

from kafka.broker import TopicSet
from kafka.faults.brokers import SIZE, Brokers
from support.checker import CUT_OFF, CommitWatch, check, wait_for_results, wait_until_committed
from support.feeder import event
from support.process import ServiceProcess
from support.proxy import Mode, Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.broker
TOPICS = TopicSet("fivestage", 2)
"""The default names."""
LEADERS = (1, 2)
"""Of the query partitions; the first broker leads all other topics and the group."""
TIMEOUTS = {"kafka.request_timeout_ms": 12_000, "kafka.rebalance_timeout_ms": 9000}


@pytest.fixture
def proxies() -> Iterator[list[Proxy]]:
    """Three brokers, each behind a proxy of its own address."""
    with ExitStack() as stack:
        proxies = [stack.enter_context(Proxy()) for _ in range(SIZE)]
        brokers = stack.enter_context(Brokers([proxy.port for proxy in proxies], LEADERS))
        for proxy, address in zip(proxies, brokers.addresses, strict=True):
            proxy.target = address
        yield proxies


def ask(bootstrap: str, partition: int, ids: list[str]) -> list[str]:
    """Write queries to one partition."""
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    for name in ids:
        producer.produce(TOPICS.queries, event(name, "fast"), key=name, partition=partition)
    assert not producer.flush(60)
    return ids


def wait_until_called(proxy: Proxy, limit_s: float = 60.0) -> None:
    """Wait until a client has connected to the black hole."""
    end, pause = time.monotonic() + limit_s, threading.Event()
    while not proxy.swallowed:
        assert time.monotonic() < end
        pause.wait(0.05)


@pytest.mark.fault(37)
@pytest.mark.long
def test_a_broker_that_is_a_black_hole(proxies: list[Proxy]) -> None:
    """Partitions of the other brokers are read on, also over connections made meanwhile.

    The client makes one connection at a time: while it waits for the black hole, no other is made. That
    costs kafka.request_timeout_ms now and then, not more.
    """
    first, hole, third = proxies
    bootstrap = f"{first.address},{third.address}"
    with (
        CommitWatch(bootstrap, "fivestage", TOPICS) as watch,
        ServiceProcess("support.apps:load", bootstrap, TIMEOUTS) as service,
    ):
        ids = ask(bootstrap, 0, ["a"]) + ask(bootstrap, 1, ["b"])
        wait_for_results(bootstrap, TOPICS.results, 2)
        hole.mode = Mode.BLACK_HOLE
        ids += ask(bootstrap, 0, [f"during-{n}" for n in range(50)])
        wait_for_results(bootstrap, TOPICS.results, 52)
        wait_until_called(hole)
        assert first.reset() > 0
        ids += ask(bootstrap, 0, [f"again-{n}" for n in range(50)])
        wait_for_results(bootstrap, TOPICS.results, 102)
        wait_until_committed(bootstrap, "fivestage", TOPICS.queries, 102)
        hole.mode = Mode.PASS
        ids += ask(bootstrap, 1, [f"after-{n}" for n in range(50)])
        wait_for_results(bootstrap, TOPICS.results, 152)
        wait_until_committed(bootstrap, "fivestage", TOPICS.queries, 152)
        assert service.end() == 0
    report = check(bootstrap, TOPICS, ids, watch.snapshots, CUT_OFF)
    assert report.silent, report
    assert [line["event"] for line in service.log].count("rebuilding") == 0
