"""The service as a process on a real broker: input, output, and shutdown."""

from __future__ import annotations

import re
import signal
import time
from typing import TYPE_CHECKING

import pytest

from fivestage_schemas import PipelineResult, StageType, TimeoutEvent
from support.checker import (
    CUT_OFF,
    ONCE,
    check,
    committed,
    headers_of,
    json_of,
    read_all,
    wait_for_results,
    wait_until_committed,
)
from support.feeder import Feeder, event, write
from support.operations import Operator
from support.probe import counted
from support.process import ServiceProcess

from .broker import TopicSet

if TYPE_CHECKING:
    from .broker import RealBroker
    from .conftest import MakeTopics

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"

GENEROUS = {
    "pipeline__total_timeout_ms": 20_000,
    "pipeline__stage_timeouts_ms": {
        **dict.fromkeys(StageType, 20_000),
        StageType.PROCESSING: 600,
        StageType.VALIDATION: 600,
    },
    "adaptive__enabled": False,
}
"""Only nodes that do not end reach a limit, also on a busy machine, and a stage's before the query's."""


def settings_for(topics: TopicSet, **more: object) -> dict[str, object]:
    """Build settings of a service on these topics; dots in keys are written as ``__``."""
    names = ("queries", "stage_results", "results", "timeouts", "dead_letters")
    return {
        "kafka.group_id": topics.prefix,
        **{f"topics.{name}": getattr(topics, name) for name in names},
        **{key.replace("__", "."): value for key, value in more.items()},
    }


def test_java_producer_to_java_consumer(kafka: RealBroker, topics: TopicSet) -> None:
    """Java's console producer asks, all five stages answer, Java's console consumer sees the headers."""
    header = f"traceparent:{TRACEPARENT},lane:canary\t"
    line = header + '{"query_id":"j1","user_input":"What is 15 + 7?"}\n'
    with_headers = ("--reader-property", "parse.headers=true")
    kafka.exec_tool("kafka-console-producer", "--topic", topics.queries, *with_headers, input=line.encode())
    with ServiceProcess("support.apps:builtin", kafka.bootstrap, settings_for(topics)):
        wait_for_results(kafka.bootstrap, topics.results, 1)
        shown = kafka.exec_tool(
            "kafka-console-consumer",
            *("--topic", topics.results, "--from-beginning", "--max-messages", "1", "--timeout-ms", "20000"),
            *("--formatter-property", "print.headers=true", "--formatter-property", "print.key=true"),
        )
    headers, key, value = shown.splitlines()[0].split("\t", 2)
    assert key == "j1"
    result = PipelineResult.model_validate_json(value)
    assert (result.answer, result.lane, len(result.stages)) == (22, "canary", 5)
    for name in (
        "ce_specversion:1.0",
        "ce_type:fivestage.result.v1",
        "ce_subject:j1",
        "status:success",
        "lane:canary",
    ):
        assert name in headers
    assert re.search(rf"traceparent:00-{TRACE_ID}-[0-9a-f]{{16}}-01", headers)
    report = check(kafka.bootstrap, topics, ["j1"], limits=ONCE)
    assert report.silent, report


@pytest.mark.fault(15, 16, 24, 29)
def test_every_ending(kafka: RealBroker, topics: TopicSet) -> None:
    """Each kind of input ends as in the contract's table, in all four output topics."""
    asked = {
        "fast": ("fast", "success"),
        "doubt": ("fast doubtful", "success"),
        "slow": ("slow", "timeout"),
        "deaf": ("deaf", "timeout"),
        "blocking": ("blocking", "timeout"),
        "raises": ("raises", "error"),
        "exits": ("exits", "error"),
        "garbage": ("garbage", "error"),
        "unknown": ("unheard-of", "error"),
        "large": ("large 900000", "success"),
        "larger": ("large 3000000", "error"),
    }
    values: list[tuple[str | None, bytes | None]] = [
        (None, event(name, text)) for name, (text, _) in asked.items()
    ]
    values.append(("k", event("past", "fast", deadline="2020-01-01T00:00:00Z")))
    values += [(None, b'{"query_id":"bad","user_input":7}'), (None, b"\xff\xfe"), (None, None)]
    headers = [("traceparent", TRACEPARENT.encode()), ("x-secret", b"not copied")]
    write(kafka.bootstrap, topics.queries, values, headers)
    settings = settings_for(topics, **GENEROUS)
    with ServiceProcess("support.apps:load", kafka.bootstrap, settings) as service:
        wait_for_results(kafka.bootstrap, topics.results, len(asked) + 2)
        assert service.end() == 0
    results = {r.query_id: r for r in _results(kafka, topics)}
    expected = {name: status for name, (_, status) in asked.items()} | {"past": "expired", "bad": "error"}
    assert {name: result.status for name, result in results.items()} == expected
    assert results["doubt"].degraded
    assert results["large"].answer == "x" * 900_000
    assert results["larger"].error_type == "result_too_large"
    assert results["bad"].error_type == "invalid_query"
    timeouts = [
        TimeoutEvent.model_validate_json(m.value() or b"") for m in read_all(kafka.bootstrap, topics.timeouts)
    ]
    assert {(t.query_id, str(t.scope)) for t in timeouts} == {
        ("doubt", "stage"),
        ("slow", "stage"),
        ("deaf", "stage"),
        ("blocking", "stage"),
        ("past", "queue"),
    }
    letters = read_all(kafka.bootstrap, topics.dead_letters)
    reasons = {headers_of(m)["dlq.reason"]: m.value() for m in letters}
    assert reasons == {
        "invalid_field": b'{"query_id":"bad","user_input":7}',
        "not_json": b"\xff\xfe",
        "empty_value": None,
    }
    positions = committed(kafka.bootstrap, topics.prefix, topics.queries)
    assert sum(positions.values()) == len(values)
    report = check(kafka.bootstrap, topics, expected, limits=ONCE)
    assert report.silent, report


def _results(kafka: RealBroker, topics: TopicSet) -> list[PipelineResult]:
    return [
        PipelineResult.model_validate_json(m.value() or b"")
        for m in read_all(kafka.bootstrap, topics.results)
    ]


@pytest.mark.fault(31)
def test_one_trace_from_query_to_all_events(kafka: RealBroker, topics: TopicSet) -> None:
    """Every event of a query carries the producer's trace; a malformed header starts a new one."""
    header = [("traceparent", TRACEPARENT.encode()), ("x-secret", b"not copied")]
    write(kafka.bootstrap, topics.queries, [("a", event("a", "slow"))], header)
    write(kafka.bootstrap, topics.queries, [("b", event("b", "fast"))], [("traceparent", b"00-zz")])
    with ServiceProcess("support.apps:load", kafka.bootstrap, settings_for(topics)):
        wait_for_results(kafka.bootstrap, topics.results, 2)
    events = [
        m
        for t in (topics.stage_results, topics.results, topics.timeouts)
        for m in read_all(kafka.bootstrap, t)
    ]
    traces: dict[str, set[str]] = {}
    for message in events:
        headers = headers_of(message)
        assert "x-secret" not in headers
        traces.setdefault(json_of(message)["query_id"], set()).add(headers["traceparent"].split("-")[1])
    assert traces["a"] == {TRACE_ID}
    assert len(traces["b"]) == 1
    assert traces["b"] != {TRACE_ID}
    report = check(kafka.bootstrap, topics, ["a", "b"], limits=ONCE)
    assert report.silent, report


@pytest.mark.fault(10)
def test_sigterm_under_load(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """SIGTERM drains: exit 0, answered queries are committed, and a successor repeats nothing."""
    topics = make_topics(8)
    settings = settings_for(topics)
    with (
        Feeder(kafka.bootstrap, topics.queries, count=3000, rate=1000) as feeder,
    ):
        with ServiceProcess("support.apps:load", kafka.bootstrap, settings) as first:
            feeder.wait_until_sent(1500)
            assert first.end() == 0
        with ServiceProcess("support.apps:load", kafka.bootstrap, settings) as second:
            wait_for_results(kafka.bootstrap, topics.results, 3000)
            assert second.end() == 0
    report = check(kafka.bootstrap, topics, feeder.ids, limits=ONCE)
    assert report.silent, report
    assert sum(committed(kafka.bootstrap, topics.prefix, topics.queries).values()) == 3000


@pytest.mark.long  # tests/kafka/faults/test_instances.py has it with fewer queries and more kills
@pytest.mark.fault(11)
def test_three_sigkills_under_load(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """20,000 queries over 8 partitions with three SIGKILLs: each id has its one terminal event id."""
    topics = make_topics(8)
    settings = settings_for(topics, kafka__session_timeout_ms=6000, kafka__heartbeat_interval_ms=1000)
    count = 20_000
    with (
        Feeder(kafka.bootstrap, topics.queries, count=count, rate=1500, user_input="fast") as feeder,
    ):
        for killed in (1, 2, 3):
            with ServiceProcess("support.apps:load", kafka.bootstrap, settings) as service:
                wait_for_results(kafka.bootstrap, topics.results, killed * 2000)
                assert service.end(signal.SIGKILL) == -signal.SIGKILL
        with ServiceProcess("support.apps:load", kafka.bootstrap, settings) as last:
            wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, count)
            assert last.end() == 0
    report = check(kafka.bootstrap, topics, feeder.ids)
    assert report.silent, report


def test_broker_restart_under_load(own_kafka: RealBroker, make_topics: MakeTopics) -> None:
    """The broker restarts: the service waits, loses nothing, and continues."""
    topics = make_topics(4, own_kafka)
    with (
        ServiceProcess("support.apps:load", own_kafka.bootstrap, settings_for(topics)) as service,
        Feeder(own_kafka.bootstrap, topics.queries, count=1600, rate=200) as feeder,
    ):
        feeder.wait_until_sent(320)
        own_kafka.restart()
        wait_until_committed(own_kafka.bootstrap, topics.prefix, topics.queries, 1600)
        assert service.end() == 0
    report = check(own_kafka.bootstrap, topics, feeder.ids, limits=CUT_OFF)
    assert report.silent, report


@pytest.mark.fault(24)
def test_topics_with_a_small_limit(kafka: RealBroker, topics: TopicSet) -> None:
    """An output topic with a limit below kafka.max_record_bytes sets the limit."""
    Operator(kafka.bootstrap).limit_records(topics.results, 20_000)
    values: list[tuple[str | None, bytes | None]] = [
        ("a", event("a", "large 30000")),
        ("b", event("b", "large 100")),
    ]
    write(kafka.bootstrap, topics.queries, values)
    with ServiceProcess("support.apps:load", kafka.bootstrap, settings_for(topics)) as service:
        wait_for_results(kafka.bootstrap, topics.results, 2)
        assert service.end() == 0
    results = {result.query_id: result for result in _results(kafka, topics)}
    assert (results["a"].error_type, results["b"].status) == ("result_too_large", "success")
    report = check(kafka.bootstrap, topics, ["a", "b"], limits=ONCE)
    assert report.silent, report


@pytest.mark.fault(24)
def test_answers_that_become_too_large_under_load(kafka: RealBroker, topics: TopicSet) -> None:
    """Topics whose limit falls at run time cost the larger answers, and no query or restart."""
    ids = [f"q{number}" for number in range(600)]
    values: list[tuple[str | None, bytes | None]] = [
        (name, event(name, "large 9000" if number % 10 == 5 else "fast")) for number, name in enumerate(ids)
    ]
    settings = settings_for(topics, **GENEROUS)
    with ServiceProcess("support.apps:load", kafka.bootstrap, settings) as service:
        write(kafka.bootstrap, topics.queries, values[:300])
        wait_for_results(kafka.bootstrap, topics.results, 300)
        Operator(kafka.bootstrap).limit_records(topics.stage_results, 6_000)
        Operator(kafka.bootstrap).limit_records(topics.results, 6_000)
        probes = _ask_until_refused(kafka, topics, 300)
        write(kafka.bootstrap, topics.queries, values[300:])
        ids += probes
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, len(ids))
        assert counted(int(service.log[-1]["admin_port"]), "fivestage_client_rebuilds_total") == {}
        assert service.end() == 0
    results = {result.query_id: result for result in _results(kafka, topics)}
    late = [results[f"q{number}"].error_type for number in range(305, 600, 10)]
    assert late == ["result_too_large"] * 30
    assert sum(result.status == "success" for result in results.values()) == 570 + len(probes) - 1
    report = check(kafka.bootstrap, topics, ids, limits=ONCE)
    assert report.silent, report


def _ask_until_refused(kafka: RealBroker, topics: TopicSet, before: int) -> list[str]:
    """Ask for large answers until one is rejected: changed topic properties take effect late."""
    probes: list[str] = []
    while True:
        probes.append(f"probe-{len(probes)}")
        write(kafka.bootstrap, topics.queries, [(probes[-1], event(probes[-1], "large 9000"))])
        wait_for_results(kafka.bootstrap, topics.results, before + len(probes))
        if {result.query_id: result for result in _results(kafka, topics)}[probes[-1]].error_type:
            return probes


def test_many_results_for_topics_with_a_small_limit(kafka: RealBroker, topics: TopicSet) -> None:
    """Batches keep to the smallest limit of the output topics: a burst of small results passes."""
    for name in (topics.results, topics.stage_results):
        Operator(kafka.bootstrap).limit_records(name, 16_384)
    ids = [f"q{n}" for n in range(300)]
    write(kafka.bootstrap, topics.queries, [(name, event(name, "fast " + "x" * 400)) for name in ids])
    with ServiceProcess("support.apps:load", kafka.bootstrap, settings_for(topics)) as service:
        wait_for_results(kafka.bootstrap, topics.results, 300)
        assert service.end() == 0
    report = check(kafka.bootstrap, topics, ids, limits=ONCE)
    assert report.silent, report


def test_creates_its_topics_with_the_setting(kafka: RealBroker) -> None:
    """With topics.create the service creates missing topics and gets ready."""
    topics = TopicSet(f"new{time.time_ns()}", 8)
    settings = settings_for(topics, topics__create=True)
    with ServiceProcess("support.apps:load", kafka.bootstrap, settings) as service:
        assert service.log[-1]["partitions"] == list(range(8))


@pytest.mark.fault(22)
@pytest.mark.parametrize("name", ["results", "queries"])
def test_missing_topic(kafka: RealBroker, topics: TopicSet, name: str) -> None:
    """A missing topic ends the start with exit code 2 and one line with the remedy."""
    settings = settings_for(topics) | {f"topics.{name}": "no.such.topic"}
    service = ServiceProcess("support.apps:load", kafka.bootstrap, settings)
    service.launch()
    assert service.wait(20) == 2
    assert "topic 'no.such.topic' does not exist: create it with" in service.log[-1]["error"]


DENY = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}


@pytest.mark.fault(23)
@pytest.mark.parametrize("own_kafka", [DENY], indirect=True)
def test_missing_rights(own_kafka: RealBroker, make_topics: MakeTopics) -> None:
    """Each missing right ends the start with exit code 2 and one line that names it."""
    topics = make_topics(2, own_kafka)
    operator = Operator(own_kafka.bootstrap)
    refused = {
        ("TOPIC", topics.results, "WRITE"): f"not allowed to write topic {topics.results!r}",
        ("TOPIC", topics.queries, "READ"): f"not allowed to read topic {topics.queries!r}",
        ("GROUP", topics.prefix, "READ"): f"not allowed to use group {topics.prefix!r}",
    }
    for rule, text in refused.items():
        operator.deny(*rule)
        service = ServiceProcess("support.apps:load", own_kafka.bootstrap, settings_for(topics))
        service.launch()
        assert service.wait(20) == 2, service.log[-3:]
        assert text in service.log[-1]["error"]
        operator.allow(*rule)
