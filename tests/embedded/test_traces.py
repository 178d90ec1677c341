"""The spans of queries as an OTLP receiver gets them, with each kind of executor."""

from __future__ import annotations

import json
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from support.checker import json_of, read_all
from support.embedded import Broker, patient
from support.feeder import event, write
from support.otlp import Collector, Received, tree
from support.process import ServiceProcess
from support.reading import headers_of, wait_for_results

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.embedded import Installation

pytestmark = pytest.mark.broker
PARENT = "00f067aa0ba902b7"
LIMITS = patient(processing_ms=1000)
"""Only the node that waits for ever reaches a limit, also on a busy machine."""
APP = Path(__file__).parents[1] / "support" / "traced_app.py"
BEFORE = ["  stage intent", "  stage decision"]
AFTER = ["  stage validation", "  stage reflection", "  send {} PRODUCER"]


class Traced(NamedTuple):
    """A service whose spans are received."""

    place: Installation
    collector: Collector

    def ask(self, text: str, spans: int, *, flags: str = "01", **fields: Any) -> Answer:
        """Write a query in a trace of the producer; wait for its result and its spans."""
        trace_id, query_id = secrets.token_hex(16), secrets.token_hex(4)
        headers = [("traceparent", f"00-{trace_id}-{PARENT}-{flags}")]
        topics = self.place.topics
        before = len(read_all(self.place.bootstrap, topics.results))
        write(
            self.place.bootstrap,
            topics.queries,
            [(query_id, event(query_id, text, **fields))],
            headers=headers,
        )
        wait_for_results(self.place.bootstrap, topics.results, before + 1)
        messages = read_all(self.place.bootstrap, topics.results)
        [found] = [one for one in messages if json_of(one)["query_id"] == query_id]
        traceparent = headers_of(found)["traceparent"]
        return Answer(json_of(found), traceparent, trace_id, self.collector.trace(trace_id, spans))

    def lines(self, *middle: str, error: str = "", after: list[str] = AFTER) -> list[str]:
        """Return the expected tree of a query that was started."""
        topics = self.place.topics
        lines = [f"process {topics.queries} CONSUMER{error}", *BEFORE, *middle, *after]
        return [line.format(topics.results) for line in lines]


class Answer(NamedTuple):
    """A result and the trace of its query."""

    result: dict[str, Any]
    traceparent: str
    trace_id: str
    spans: dict[str, Received]

    def lines(self) -> list[str]:
        """Draw the trace."""
        return tree(self.spans.values(), PARENT)

    def one(self, name: str) -> Received:
        """Return the only span whose name starts so."""
        [found] = [span for span in self.spans.values() if span.name.startswith(name)]
        return found

    def named(self, traceparent: str) -> str:
        """Return the name of the span that user code was in."""
        version, trace_id, span_id, flags = traceparent.split("-")
        assert (version, trace_id, int(flags, 16) & 1) == ("00", self.trace_id, 1)
        return self.spans[span_id].name


@pytest.fixture(scope="module", params=["thread", "process"])
def traced(request: pytest.FixtureRequest) -> Iterator[Traced]:
    """Run a service whose spans are exported, for the tests of the module."""
    with Broker() as broker, Collector() as collector:
        place = broker.installation()
        settings = LIMITS | {"executor.kind": request.param}
        environment = {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "TRACED_APP_URL": f"{collector.url}/called",
        }
        app = "support.traced_app:app"
        with ServiceProcess(
            app, place.bootstrap, place.settings(settings), environment=environment
        ) as service:
            yield Traced(place, collector)
            assert service.end() == 0


def test_success(traced: Traced) -> None:
    """The trace goes from the producer's span through all that a node starts to the result's header."""
    answer = traced.ask("coroutine", 9)
    node = ["  stage processing", "    node coroutine", "      own"]
    assert answer.lines() == traced.lines(*node)
    process, send = answer.one("process"), answer.one("send")
    assert answer.traceparent == f"00-{answer.trace_id}-{send.span_id}-01"
    assert process.links == [(answer.trace_id, PARENT)]
    assert {name: answer.named(found) for name, found in answer.result["answer"].items()} == {
        "itself": "node coroutine",
        "in a task": "node coroutine",
        "in to_thread": "node coroutine",
        "in run_sync": "node coroutine",
        "below its own": "own",
    }


def test_attributes(traced: Traced) -> None:
    """Each span has the attributes of the conventions and of docs/traces.md, and no query text."""
    answer = traced.ask("second", 8, context={"text": "canary-7f3a"})
    topics = traced.place.topics
    process = answer.one("process")
    kafka = {"messaging.system": "kafka"}
    attributes = dict(process.attributes)
    assert int(attributes.pop("messaging.destination.partition.id")) < 4
    assert attributes.pop("messaging.kafka.offset") >= 0
    assert attributes.pop("lukhas.matriz.queue_ms") >= 0
    query_id = answer.result["query_id"]
    assert attributes == kafka | {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": topics.queries,
        "messaging.consumer.group.name": traced.place.name,
        "messaging.message.id": query_id,
        "messaging.message.conversation_id": query_id,
        "lukhas.matriz.lane": "prod",
        "lukhas.matriz.status": "success",
        "lukhas.matriz.degraded": False,
        "lukhas.matriz.within_budget": True,
        "lukhas.matriz.budget_ms": 20_000.0,
        "lukhas.matriz.node": "second",
    }
    assert answer.one("send").attributes == kafka | {
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": topics.results,
    }
    stage = {
        "lukhas.matriz.stage": "processing",
        "lukhas.matriz.critical": True,
        "lukhas.matriz.outcome": "success",
        "lukhas.matriz.slo_target_ms": 1000.0,
        "lukhas.matriz.node": "second",
    }
    assert answer.one("stage processing").attributes == stage
    node = dict(answer.one("node").attributes)
    assert 0 < node.pop("lukhas.matriz.granted_ms") <= 1000
    call = {"attempt": 1, "attempt_kind": "first", "waited_ms": 0.0}
    assert node == stage | {f"lukhas.matriz.{name}": value for name, value in call.items()}
    assert process.scope == ("fivestage", "https://opentelemetry.io/schemas/1.44.0")
    assert process.resource["service.name"] == "fivestage"
    assert "canary" not in json.dumps(list(answer.spans.values()))
    assert process.start_ns <= answer.one("stage intent").start_ns
    assert answer.one("stage reflection").end_ns <= process.end_ns <= answer.one("send").end_ns


def test_functions_in_threads(traced: Traced) -> None:
    """A ``def`` node runs in its span too."""
    answer = traced.ask("function", 9)
    assert answer.lines() == traced.lines("  stage processing", "    node function", "      own")
    assert answer.named(answer.result["answer"]["below its own"]) == "own"


def test_an_instrumented_client(traced: Traced) -> None:
    """A request of an instrumented client is a span below the node's, and carries its id."""
    answer = traced.ask("client", 9)
    assert answer.lines() == traced.lines("  stage processing", "    node client", "      GET CLIENT")
    assert ("/called", f"00-{answer.trace_id}-{answer.one('GET').span_id}-01") in traced.collector.called


def test_failover(traced: Traced) -> None:
    """Each call has a span; only the one that failed is marked, with the class of the exception."""
    answer = traced.ask("first", 9)
    node = ["  stage processing", "    node first !LookupError", "    node second"]
    assert answer.lines() == traced.lines(*node)
    [(name, attributes)] = answer.one("node first").events
    line = next(number for number, line in enumerate(APP.read_text().splitlines(), 1) if "raise Look" in line)
    place = {"code.file.path": str(APP), "code.line.number": line}
    assert (name, attributes) == ("exception", {"exception.type": "LookupError", **place})
    assert answer.named(answer.result["answer"]["itself"]) == "node second"
    assert answer.one("node second").attributes["lukhas.matriz.attempt_kind"] == "failover"


def test_stage_timeout(traced: Traced) -> None:
    """A call that reached its limit, its stage and the query are marked; later stages have no span."""
    answer = traced.ask("waits", 6)
    node = ["  stage processing !timeout", "    node waits !timeout"]
    assert answer.lines() == traced.lines(*node, error=" !timeout", after=AFTER[-1:])
    assert answer.one("node").end_ns - answer.one("node").start_ns >= 1_000_000_000


def test_total_timeout(traced: Traced) -> None:
    """A query that reached its own limit is marked, with the call that was running."""
    answer = traced.ask("waits", 6, budget_ms=700)
    node = ["  stage processing !timeout", "    node waits !timeout"]
    assert answer.lines() == traced.lines(*node, error=" !timeout", after=AFTER[-1:])
    assert answer.one("process").attributes["lukhas.matriz.within_budget"] is False
    assert answer.result["status"] == "timeout"


def test_expired(traced: Traced) -> None:
    """A query that was not started has a span that says so."""
    answer = traced.ask("coroutine", 2, deadline="2020-01-01T00:00:00Z")
    topics = traced.place.topics
    assert answer.lines() == [
        f"process {topics.queries} CONSUMER !expired",
        f"  send {topics.results} PRODUCER",
    ]
    attributes = answer.one("process").attributes
    assert attributes["lukhas.matriz.status"] == "expired"
    assert attributes["lukhas.matriz.reason"] == "expired_before_start"


def test_unreadable(traced: Traced) -> None:
    """So has one that cannot be read."""
    answer = traced.ask("coroutine", 2, budget_ms=-1)
    topics = traced.place.topics
    assert answer.lines()[0] == f"process {topics.queries} CONSUMER !invalid_query"
    assert answer.one("process").attributes["lukhas.matriz.reason"] == "invalid_field"


def test_unsampled(traced: Traced) -> None:
    """A query that the producer does not sample has no spans, but what its code calls gets the trace."""
    asked = [traced.ask(node, 0, flags="00") for node in ("client", "coroutine")]
    traced.ask("second", 8)  # its spans come later than those of the others would
    client, coroutine = asked
    assert not {answer.trace_id for answer in asked} & {span.trace_id for span in traced.collector.spans}
    assert client.traceparent.endswith("-00")
    called = [found or "" for _, found in traced.collector.called]
    assert [found[-3:] for found in called if client.trace_id in found] == ["-00"]
    inside = {found for name, found in coroutine.result["answer"].items() if name != "below its own"}
    assert inside == {coroutine.traceparent}


def test_a_receiver_that_does_not_answer() -> None:
    """Queries are answered, and the service ends as usual, while nothing accepts its spans."""
    with Broker() as broker, socket.create_server(("127.0.0.1", 0)) as mute:
        place = broker.installation()
        settings = LIMITS | {"executor.kind": "process", "tracing.sample_ratio": 1.0}
        environment = {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{mute.getsockname()[1]}",
        }
        app = "support.traced_app:app"
        with ServiceProcess(
            app, place.bootstrap, place.settings(settings), environment=environment
        ) as service:
            values = [(str(number), event(f"q{number}", "function")) for number in range(20)]
            write(place.bootstrap, place.topics.queries, values)
            wait_for_results(place.bootstrap, place.topics.results, len(values))
            assert service.end() == 0
        assert {json_of(one)["status"] for one in read_all(place.bootstrap, place.topics.results)} == {
            "success"
        }
        assert "left behind" not in {line["event"] for line in service.log}
