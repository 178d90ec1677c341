"""The service rebuilds its Kafka clients under load, and its shutdown is bounded whatever hangs."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from kafka.broker import TopicSet
from support.checker import (
    CUT_OFF,
    CommitWatch,
    check,
    json_of,
    read_all,
    wait_for_results,
    wait_until_committed,
)
from support.embedded import patient
from support.feeder import Feeder, event, write
from support.mock import PRODUCE, SESSION, Mock
from support.probe import counted, get, metrics
from support.process import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.checker import Report

pytestmark = pytest.mark.broker
TOPICS = TopicSet("fivestage", 4)
"""The default names."""
APP = "support.sabotage:app"
MOST_TAKEN_IN = 1024
MOST_TASKS = 100


def rebuilds(service: ServiceProcess) -> dict[str, float]:
    """Count the rebuilds of a client, by labels."""
    [port] = [line["admin_port"] for line in service.log if line["event"] == "ready"]
    return counted(port, "fivestage_client_rebuilds_total")


def wait_until_rebuilt(service: ServiceProcess, times: int) -> None:
    """Wait for a number of rebuilds; the first may come before the service is ready."""
    while [line["event"] for line in service.log].count("rebuilt") < times:
        service.wait_for("rebuilt")


def all_answered(mock: Mock, ids: list[str], watch: CommitWatch | None = None) -> Report:
    """Return the checker's findings once every query is answered and committed."""
    wait_for_results(mock.bootstrap, TOPICS.results, len(ids))
    wait_until_committed(mock.bootstrap, "fivestage", TOPICS.queries, len(ids))
    return check(mock.bootstrap, TOPICS, ids, watch.snapshots if watch else (), CUT_OFF)


def out_of_order(mock: Mock) -> list[str]:
    """Return the keys whose results are not in the order of their queries, without repetitions."""
    results = read_all(mock.bootstrap, TOPICS.results)
    offsets: dict[str, list[int]] = defaultdict(list)
    for message in sorted(results, key=lambda one: (one.partition() or 0, one.offset() or 0)):
        key, offset = (message.key() or b"").decode(), json_of(message)["source"]["offset"]
        if offset not in offsets[key]:
            offsets[key].append(offset)
    return [key for key, found in offsets.items() if found != sorted(found)]


def wait_until_ready(port: int, limit_s: float = 30.0) -> None:
    """Wait until the service reports ready."""
    end, pause = time.monotonic() + limit_s, threading.Event()
    while (said := get(port, "/readyz")) != (200, "ok\n"):
        assert time.monotonic() < end, said
        pause.wait(0.1)


@pytest.mark.fault(38)
def test_background_tasks_that_die(record_property: Callable[[str, object], None]) -> None:
    """After each client task dies under load a new client continues, and nothing is lost.

    One more within five minutes exits the process with 1 and the cause.
    """
    killed = ("fetch", "sender", "heartbeat", "group")
    settings = {**patient(), **SESSION}  # a query that kills must get to its node
    with Mock() as mock, ServiceProcess(APP, mock.bootstrap, settings) as service:
        port = service.log[-1]["admin_port"]
        with CommitWatch(mock.bootstrap, "fivestage", TOPICS) as watch:
            with Feeder(mock.bootstrap, TOPICS.queries, count=1500, rate=300) as feeder:
                for number, name in enumerate(killed, start=1):
                    feeder.wait_until_sent(number * 250)
                    write(mock.bootstrap, TOPICS.queries, [(name, event(name, f"kill {name}"))])
                    service.wait_for("rebuilt")
            report = all_answered(mock, [*feeder.ids, *killed], watch)
        wait_until_ready(port)
        consumer = {f'{{client="consumer",reason="{name}_ended"}}': 1 for name in killed if name != "sender"}
        assert rebuilds(service) == {**consumer, '{client="producer",reason="sender_ended"}': 1}
        write(mock.bootstrap, TOPICS.queries, [(None, event("again", "kill fetch"))])
        assert service.wait(30) == 1
    assert report.silent, report
    assert [line["event"] for line in service.log].count("rebuilding") == len(killed)
    assert service.log[-1]["error"] == (
        "the consumer was rebuilt 3 times within 300 s and has failed again: "
        "the Kafka client's fetch task has ended"
    )
    record_property("rebuilds", len(killed))
    record_property("answered twice", report.duplicates)


@pytest.mark.fault(27)
@pytest.mark.parametrize(
    "reasons",
    [
        {45: "OutOfOrderSequenceNumber", 47: "InvalidProducerEpoch", 59: "UnknownProducerId"},
        pytest.param({45: "OutOfOrderSequenceNumber"}, marks=pytest.mark.long),
        pytest.param({47: "InvalidProducerEpoch"}, marks=pytest.mark.long),
        pytest.param({59: "UnknownProducerId"}, marks=pytest.mark.long),
        pytest.param({90: "UnknownError"}, marks=pytest.mark.long),
    ],
    ids=lambda reasons: "-".join(str(code) for code in reasons),
)
def test_a_producer_beyond_repair(
    reasons: dict[int, str], record_property: Callable[[str, object], None]
) -> None:
    """Each fatal response to a batch under load costs one rebuild; all is published in key order."""
    ids = [f"q{number}" for number in range(1500)]
    with Mock() as mock:
        keys = [f"k{number % 100}" for number in range(len(ids))]
        events = [event(name) for name in ids]
        write(mock.bootstrap, TOPICS.queries, zip(keys, events, strict=True))
        for code in reasons:
            mock.push(PRODUCE, [0] * 4 + [code])
        with ServiceProcess(APP, mock.bootstrap, {"admission.ordering": "key"}) as service:
            wait_until_rebuilt(service, len(reasons))
            report = all_answered(mock, ids)
            assert out_of_order(mock) == []
            found = rebuilds(service)
            assert service.end() == 0
    assert found == {f'{{client="producer",reason="{name}"}}': 1 for name in reasons.values()}
    assert report.silent, report
    record_property("rebuilds", len(reasons))
    record_property("answered twice", report.duplicates)


@pytest.mark.fault(27)
@pytest.mark.long
def test_a_producer_that_is_refused_for_good() -> None:
    """Where new producers are rejected too, the process exits with 1 and the cause."""
    with Mock() as mock:
        write(mock.bootstrap, TOPICS.queries, [("q", event("q"))])
        mock.push(PRODUCE, [45] * 100)
        service = ServiceProcess(APP, mock.bootstrap)
        service.launch()
        assert service.wait(60) == 1
    assert service.log[-1]["error_type"] == "PublishError"
    assert "the producer was rebuilt 3 times within 300 s" in service.log[-1]["error"]
    assert "OutOfOrderSequenceNumber" in service.log[-1]["error"]


@pytest.mark.fault(25)
def test_slow_acknowledgements(record_property: Callable[[str, object], None]) -> None:
    """Where every response takes 400 ms, fetching pauses; neither queries nor tasks accumulate."""
    ids = [f"q{number}" for number in range(1800)]
    texts = ["tasks" if number % 50 == 0 else "work" for number in range(len(ids))]
    with Mock() as mock, ServiceProcess(APP, mock.bootstrap) as service:
        port = service.log[-1]["admin_port"]
        mock.slow_down(400)
        events = [(name, event(name, text)) for name, text in zip(ids, texts, strict=True)]
        write(mock.bootstrap, TOPICS.queries, events)
        taken_in: list[float] = []
        pause = threading.Event()
        while sum(count > 0.7 * MOST_TAKEN_IN for count in taken_in) < 10:  # it reopens at three quarters
            taken_in.append(metrics(port, "fivestage_unfinished")[""])
            assert len(taken_in) < 200, taken_in
            pause.wait(0.1)
        assert max(taken_in) <= MOST_TAKEN_IN
        assert sum(metrics(port, "fivestage_lag").values()) > 0
        mock.slow_down(0)
        report = all_answered(mock, ids)
        tasks = [json_of(message)["answer"] for message in read_all(mock.bootstrap, TOPICS.results)]
        assert rebuilds(service) == {}
        assert service.end() == 0
    highest = max(answer for answer in tasks if isinstance(answer, int))
    assert report.silent, report
    assert highest < MOST_TASKS
    record_property("taken in at most", int(max(taken_in)))
    record_property("tasks at most", highest)


ENDED_AFTER_S = 10.0
"""The promise is 4 s; this is far more than any machine adds to it."""


@pytest.mark.parametrize("how", ["await", "loop", "lock"])
def test_a_shutdown_that_hangs(how: str) -> None:
    """Clients that never stop are left behind in time; a blocked process is killed."""
    settings = {**patient(), "shutdown.drain_timeout_ms": 500, "shutdown.total_timeout_ms": 2000}
    with Mock() as mock, ServiceProcess(APP, mock.bootstrap, settings) as service:
        write(mock.bootstrap, TOPICS.queries, [("hang", event("hang", f"hang {how}"))])
        wait_for_results(mock.bootstrap, TOPICS.results, 1)
        assert service.end(limit_s=ENDED_AFTER_S) == (0 if how == "await" else 1)
        wait_until_committed(mock.bootstrap, "fivestage", TOPICS.queries, 1)
    said = [line["event"] for line in service.log]
    left_behind = [line["part"] for line in service.log if line["event"] == "left behind"]
    assert left_behind == (["consumer", "producer"] if how == "await" else [])
    assert ("shutdown took too long" in said) == (how == "loop")  # its last guard needs the lock
