"""The status document of a running service, on the embedded broker."""

from __future__ import annotations

import http.client
import json
import signal
from typing import Any

import pytest

from fivestage.observability.status import model
from fivestage_schemas import StageType
from support import apps
from support.checker import wait_for_results
from support.embedded import Installation, patient
from support.feeder import event, write
from support.probe import get, metrics
from support.process import ServiceProcess

pytestmark = pytest.mark.broker
CANARY = "canary-7f3a"
LIMITS = patient(processing_ms=2000)


def service_of(place: Installation, **settings: object) -> ServiceProcess:
    """Start a service on these topics."""
    return ServiceProcess("support.apps:load", place.bootstrap, place.settings({**LIMITS, **settings}))


def ask(place: Installation, *texts: str) -> None:
    """Write queries whose first words are their ids, and wait until they have ended."""
    write(place.bootstrap, place.topics.queries, [(text, event(text.split()[0], text)) for text in texts])
    wait_for_results(place.bootstrap, place.topics.results, len(texts))


def status_of(service: ServiceProcess) -> dict[str, Any]:
    """Return the status document."""
    code, body = get(service.log[-1]["admin_port"], "/api/status")
    assert code == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


class Stream:
    """A reader of the event stream."""

    def __init__(self, service: ServiceProcess) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", service.log[-1]["admin_port"], timeout=30)
        self._connection.request("GET", "/api/events")
        self._response = self._connection.getresponse()
        assert self._response.status == 200
        assert self._response.headers["Content-Type"].startswith("text/event-stream")

    def read(self) -> dict[str, Any] | None:
        """Return the next event's data; None at the end of the stream."""
        while line := self._response.readline():
            if line.startswith(b"data: "):
                found: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
                return found
        self._connection.close()
        return None


def document_keys() -> set[str]:
    """Return the top-level keys of the document."""
    return set(model.Status.__annotations__)


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_the_document_of_a_service(place: Installation, kind: str) -> None:
    """Every key; what failed, where in the author's code, also in worker processes; and no text."""
    with service_of(place, **{"executor.kind": kind}) as service:
        ask(place, f"fast {CANARY}", f"work {CANARY}", f"raises {CANARY}", f"slow {CANARY}")
        found = status_of(service)
        assert found.keys() == document_keys()
        assert found["service"]["state"] == "ready"
        assert found["service"]["executor"] == kind
        assert [stage["stage"] for stage in found["stages"]] == [str(stage) for stage in StageType]
        assert (found["windows"][0]["ended"], found["windows"][0]["in_time"]) == (4, 0.5)
        nodes = {node["node"]: node for node in found["nodes"]}
        assert nodes.keys() == {"fast", "work", "raises", "slow"}
        line = f"{apps.__file__}:{apps._raises.__code__.co_firstlineno + 2}"
        failure = nodes["raises"]["last_failure"]
        assert (failure["error_type"], failure["where"]) == ("ValueError", line)
        recent = {query["query_id"]: query for query in found["recent"]}
        assert recent.keys() == {"raises", "slow"}
        assert recent["raises"]["where"] == line
        assert recent["raises"]["why"].startswith("processing (raises) failed with ValueError after")
        assert len(recent["slow"]["trace_id"]) == 32
        assert [partition["partition"] for partition in found["partitions"]] == [0, 1, 2, 3]
        assert "ready" in [event["text"] for event in found["events"]]
        assert CANARY not in json.dumps(found)
        assert service.end() == 0


def test_text_and_figures_of_a_service_like_its_metrics(place: Installation) -> None:
    """With admin.show_text the text is shown; document and metrics count the same."""
    with service_of(place, **{"admin.show_text": True}) as service:
        ask(place, f"raises {CANARY}", "fast")
        found = status_of(service)
        assert found["recent"][0]["text"] == f"raises {CANARY}"
        totals = metrics(service.log[-1]["admin_port"], "lukhas_matriz_async_pipeline_total")
        assert sum(totals.values()) == found["windows"][0]["ended"] == 2
        assert found["load"]["limit"] == sum(
            metrics(service.log[-1]["admin_port"], "fivestage_concurrency_limit").values()
        )
        assert service.end() == 0


def test_a_stream_shows_queries_and_the_end(place: Installation) -> None:
    """Updates while queries end; at the shutdown the state, then the end of the stream; the exit is clean."""
    with service_of(place) as service:
        stream = Stream(service)
        whole = stream.read()
        assert whole is not None
        assert whole.keys() == document_keys()
        ask(place, "fast")
        while not ((update := stream.read()) or {}).get("windows"):
            assert update is not None
        assert update is not None
        assert update["windows"][0]["ended"] == 1
        write(place.bootstrap, place.topics.queries, [("late", event("late", "slow"))])
        while not ((update := stream.read()) or {}).get("load", {}).get("running"):
            assert update is not None
        assert service.process is not None
        service.process.send_signal(signal.SIGTERM)
        states = set()
        while (update := stream.read()) is not None:
            states.add(update.get("service", {}).get("state"))
        assert "draining" in states
        assert service.process.wait(30) == 0


def test_without_the_endpoints(place: Installation) -> None:
    """With admin.enabled = false nothing listens, and queries are answered."""
    with service_of(place, **{"admin.enabled": False}) as service:
        assert "admin_port" not in service.log[-1]
        ask(place, "fast")
        assert service.end() == 0
