"""The service as a process on the embedded broker: hostile nodes, probes, logs, starts, and shutdown.

With each kind of executor, where that matters.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fivestage.service.shutdown import LAST_WORDS_S
from fivestage_schemas import StageType
from support.checker import json_of, read_all, wait_for_results
from support.embedded import Installation, patient
from support.feeder import event, write
from support.jobs import until
from support.kinds import alive
from support.probe import get
from support.process import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytestmark = pytest.mark.broker
CANARY = "canary-7f3a"
GENEROUS = patient(processing_ms=3000)
ENDLESS = {
    "pipeline.total_timeout_ms": 120_000,
    "pipeline.stage_timeouts_ms": dict.fromkeys(StageType, 120_000),
    "executor.stall_ms": 60_000,
}
LONG_END = {"shutdown.drain_timeout_ms": 100_000, "shutdown.total_timeout_ms": 110_000}
SHORT_END = {"shutdown.drain_timeout_ms": 500, "shutdown.total_timeout_ms": 2000}
ENDED_AFTER_S = 10.0
"""The promise is 4 s; this is far more than any machine adds to it."""
FAULTS, STUCK = "support.pipelines:app", "support.stuck_app:app"
STUCK_NODES = ("stuck-1", "stuck-2")
RUN_ON_S = 2.0
"""In the app STUCK; its import here would start its threads in this process too."""
STUCK_LIMITS = patient(processing_ms=1000) | {"executor.stall_ms": 1000}
"""With shorter times, for nodes that mostly do not answer."""
both_kinds = pytest.mark.parametrize("kind", ["thread", "process"])


def service_of(
    place: Installation,
    settings: Mapping[str, object],
    app: str = "support.apps:load",
    arguments: tuple[str, ...] = (),
) -> ServiceProcess:
    """Start a service on these topics."""
    return ServiceProcess(app, place.bootstrap, place.settings(settings), arguments, own_group=True)


def ask(place: Installation, *texts: str) -> None:
    """Write queries, whose texts are their ids too."""
    write(place.bootstrap, place.topics.queries, [(text, event(_id(text), text)) for text in texts])


def _id(text: str) -> str:
    return text.partition(" ")[0]


def wait(place: Installation, count: int) -> None:
    """Wait until *count* queries have ended."""
    wait_for_results(place.bootstrap, place.topics.results, count)


def results(place: Installation) -> dict[str, dict[str, Any]]:
    """Return the terminal events by query id, and assert that each query has one."""
    found = [json_of(message) for message in read_all(place.bootstrap, place.topics.results)]
    assert len({result["query_id"] for result in found}) == len(found)
    return {result["query_id"]: result for result in found}


def statuses(place: Installation) -> dict[str, str]:
    """Return the statuses by query id."""
    return {query_id: result["status"] for query_id, result in results(place).items()}


def processes_of(service: ServiceProcess) -> list[int]:
    """Return a service's process and all its descendants."""
    assert service.process is not None
    found = [service.process.pid]
    for pid in found:
        found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return found


def test_probes_and_metrics(place: Installation) -> None:
    """A ready service reports ready, counts its work, and its probes accept only GET."""
    with service_of(place, GENEROUS) as service:
        port = service.log[-1]["admin_port"]
        ask(place, "fast")
        write(place.bootstrap, place.topics.queries, [("b", b"{")])
        wait(place, 1)
        wait_for_results(place.bootstrap, place.topics.dead_letters, 1)
        assert get(port, "/livez") == (200, "ok\n")
        assert get(port, "/readyz") == (200, "ok\n")
        metrics = get(port, "/metrics")[1]
        assert (
            'lukhas_matriz_async_pipeline_total{lane="prod",status="success",within_budget="true"} 1.0'
            in metrics
        )
        assert 'fivestage_dead_letters_total{reason="not_json"} 1.0' in metrics
        for name in (
            "fivestage_in_flight",
            "fivestage_lag",
            "fivestage_uncommitted_span",
            "fivestage_build_info",
        ):
            assert f"\n{name}" in metrics
        request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", method="POST")
        with pytest.raises(urllib.error.HTTPError, match="405"):
            urllib.request.urlopen(request, timeout=10)
        assert service.end() == 0


# Hostile nodes

HOSTILE = {
    "fast": ("success", None),
    "ends-loop": ("success", None),
    "exits-in-task": ("error", "SystemExit"),
    "raises": ("error", "ValueError"),
    "exits": ("error", "SystemExit"),
    "garbage": ("error", "TypeError"),
    "slow": ("timeout", "timeout"),
    "deaf": ("timeout", "timeout"),
}
"""Nodes, and the outcomes of their queries."""


@pytest.mark.fault(16)
@both_kinds
def test_hostile_nodes(place: Installation, kind: str) -> None:
    """Hostile nodes cost only their own queries; the service continues, and stops cleanly.

    Questions, answers and exceptions are published, but not logged, at DEBUG either.
    """
    debug, settings = ("--log-level", "DEBUG"), GENEROUS | {"executor.kind": kind}
    with service_of(place, settings, arguments=debug) as service:
        ask(place, *(f"{node} {CANARY}" for node in HOSTILE))
        write(place.bootstrap, place.topics.queries, [("bad", f'{{"query_id":"bad","{CANARY}":'.encode())])
        wait(place, len(HOSTILE))
        write(place.bootstrap, place.topics.queries, [("after", event("after", "fast"))])
        wait(place, len(HOSTILE) + 1)
        assert get(service.log[-1]["admin_port"], "/livez") == (200, "ok\n")
        assert service.end() == 0
    found = results(place)
    assert found.pop("after")["status"] == "success"
    assert {name: (one["status"], one["error_type"]) for name, one in found.items()} == HOSTILE
    assert CANARY in json.dumps(found)
    assert CANARY not in json.dumps(service.log)
    [line] = [line for line in service.log if line.get("node") == "raises"]
    assert "error" not in line


@both_kinds
def test_exceptions_of_nodes_are_logged(place: Installation, kind: str) -> None:
    """The line has the author's line, node, stage and query in each executor; the text with a setting."""
    settings = GENEROUS | {"executor.kind": kind, "logging.show_text": True}
    with service_of(place, settings) as service:
        ask(place, "raises")
        wait(place, 1)
        assert service.end() == 0
    [line] = [line for line in service.log if line.get("logger") == "fivestage.nodes"]
    assert (line["event"], line["error_type"], line["count"]) == ("node failed", "ValueError", 1)
    assert re.fullmatch(r".*/support/apps\.py:\d+", line["where"])
    assert (line["node"], line["stage"], line["query_id"]) == ("raises", "processing", "raises")
    assert line["error"] == "cannot answer 6 characters"


# Failed starts


@pytest.mark.fault(40)
def test_admin_port_taken(place: Installation) -> None:
    """An admin port in use ends the start with exit code 2 and says what to set."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        service = service_of(place, {"admin.port": taken.getsockname()[1]})
        service.launch()
        assert service.wait(20) == 2
    assert "admin.port" in service.log[-1]["error"]


@pytest.fixture
def refused() -> Iterator[str]:
    """Reserve an address where nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.mark.fault(34)
@pytest.mark.parametrize(
    ("address", "said"),
    [
        (None, "connection refused, nothing listens there"),
        ("no-such-host.invalid:9092", "the host name is not known"),
        ("localhost", "is not host:port"),
        ("localhost:99999", "is not host:port"),
        ("broker..example:9092", "is not host:port"),
    ],
    ids=["refused", "unknown", "no-port", "port-too-large", "empty-label"],
)
def test_wrong_address(refused: str, address: str | None, said: str) -> None:
    """A wrong address ends the start with exit code 2 within 20 s and one line that says why."""
    settings = {"kafka.allow_plaintext": True}
    service = ServiceProcess("support.apps:load", address or refused, settings)
    service.launch()
    assert service.wait(20) == 2
    assert [line["event"] for line in service.log] == ["cannot run"]
    assert said in service.log[-1]["error"]


async def test_something_else_listens() -> None:
    """A port where something accepts and never answers ends the start with exit code 2 within 20 s."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        service = ServiceProcess("support.apps:load", address)
        service.launch()
        assert await asyncio.to_thread(service.wait, 20) == 2
    assert "accepts connections but does not answer" in service.log[-1]["error"]


def test_wrong_app() -> None:
    """An app that cannot be imported ends the start with exit code 2 and a line without a traceback."""
    service = ServiceProcess("support.no_such:app", "localhost:9092")
    service.launch()
    assert service.wait(20) == 2
    assert len(service.log) == 1
    assert "cannot import support.no_such:app" in service.log[0]["error"]


def test_a_failed_test_shows_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    """A service prints the end of its log if it does not become ready, or if its block fails."""

    def printed() -> str:
        return str(json.loads(capsys.readouterr().out.splitlines()[-1])["error"])

    with pytest.raises(AssertionError), ServiceProcess("support.no_such:app", "localhost:9092"):
        pass
    assert "cannot import support.no_such:app" in printed()
    service = ServiceProcess("support.no_such:app", "localhost:9092")
    service.launch()
    service.wait()
    with pytest.raises(ZeroDivisionError), contextlib.ExitStack() as block:  # noqa: PT012
        block.push(service)
        raise ZeroDivisionError
    assert "cannot import support.no_such:app" in printed()


async def test_sigterm_before_kafka_lets_it_in() -> None:
    """SIGTERM while the start still waits for Kafka ends it at once, with exit code 0."""
    connected = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        service = ServiceProcess("support.apps:load", f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        service.launch()
        async with asyncio.timeout(20):
            await connected.wait()
        assert await asyncio.to_thread(service.end, signal.SIGTERM, 8) == 0


# Code that never returns


def unready(port: int) -> str:
    """Wait until a service is not ready; return the reason."""
    ends_at = time.monotonic() + 60
    while (probe := get(port, "/readyz"))[0] == 200:
        assert time.monotonic() < ends_at, "the service has been ready for 60 s"
        time.sleep(0.05)
    return probe[1]


@pytest.mark.fault(15, 17)
def test_calls_that_never_come_back(place: Installation) -> None:
    """More lost calls than allowed make the service unready, then exit with 1 and name the nodes.

    Until then all other queries are answered.
    """
    with service_of(place, STUCK_LIMITS | {"executor.max_abandoned": 1}, STUCK) as service:
        port = service.log[-1]["admin_port"]
        ask(place, "stuck-1")
        wait(place, 1)
        ask(place, "fast")
        wait(place, 2)  # one call is allowed, so the service does not end before it
        ask(place, "stuck-2")
        reason = unready(port)
        assert service.wait() == 1
    text = f"2 calls have run on for {RUN_ON_S:.0f} s after their end (executor.max_abandoned = 1): "
    assert reason.startswith(text + ", ".join(STUCK_NODES))
    assert (service.log[-1]["error_type"], service.log[-1]["error"]) == ("ExecutorError", reason.strip())
    assert statuses(place) == {**dict.fromkeys(STUCK_NODES, "timeout"), "fast": "success"}


def test_background_tasks_that_block_loops(place: Installation) -> None:
    """Blocking background tasks count like calls; the service exits with 1 and the line that blocks."""
    with service_of(place, STUCK_LIMITS | {"executor.max_abandoned": 1}, STUCK) as service:
        port = service.log[-1]["admin_port"]
        for number in range(4):
            wait(place, number)
            node = ("leaves", "fast")[number % 2]  # an idle loop is not checked
            query_id = f"{node}-{number}"
            write(place.bootstrap, place.topics.queries, [(query_id, event(query_id, node))])
        reason = unready(port)
        assert service.wait() == 1
    text = f"2 calls have run on for {RUN_ON_S:.0f} s after their end (executor.max_abandoned = 1): "
    assert reason.startswith(text)
    assert re.search(r"stuck_app\.py:\d+ _poll blocks", reason)
    assert service.log[-1]["error"] == reason.strip()


def test_code_that_burns_cpu(place: Installation) -> None:
    """One call that uses CPU ends the service after RUN_ON_S, with exit code 1 and the node's name."""
    with service_of(place, STUCK_LIMITS, STUCK) as service:
        port = service.log[-1]["admin_port"]
        ask(place, "stuck-1")
        wait(place, 1)
        ask(place, "spins")
        reason = unready(port)
        assert service.wait() == 1
    text = f"code of spins has kept over half a core busy for {RUN_ON_S:.0f} s after its queries ended"
    assert reason.startswith(text)
    assert (service.log[-1]["error_type"], service.log[-1]["error"]) == ("ExecutorError", reason.strip())
    assert statuses(place) == {"spins": "timeout", "stuck-1": "timeout"}


# Resources


@both_kinds
def test_a_resource_that_does_not_open(place: Installation, kind: str) -> None:
    """The service retries until executor.start_timeout_ms, then exits with 1, the cause and the place."""
    settings = {"executor.kind": kind, "executor.start_timeout_ms": 500}
    service = service_of(place, settings, "support.resourceful_apps:unopened")
    service.launch()
    assert service.wait() == 1
    first, second, third = service.log[-1]["error"].splitlines()
    assert service.log[-1]["error_type"] == "ResourceError"
    assert first == "resource 'missing_model' could not be opened within 0.5 s (executor.start_timeout_ms):"
    assert second == "  FileNotFoundError: [Errno 2] No such file or directory: 'no-such-model.bin'"
    assert re.search(r"resourceful_apps\.py:\d+, in missing_model$", third)
    assert {"a resource did not open", "ended"} <= {line["event"] for line in service.log}


@both_kinds
def test_resources_close_when_the_service_ends(place: Installation, kind: str) -> None:
    """Resources are open for the first query, and closed before the process ends."""
    settings = GENEROUS | {"executor.kind": kind}
    with service_of(place, settings, "support.resourceful_apps:closes") as service:
        write(place.bootstrap, place.topics.queries, [("a", event("a", "hello"))])
        wait(place, 1)
        assert results(place)["a"]["answer"] == "client"
        assert service.end() == 0
    assert "client closed" in [line["event"] for line in service.log]


# The shutdown


def end_after(service: ServiceProcess, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
    """Send a signal; return the exit code and the seconds until it."""
    began_at = time.monotonic()
    code = service.end(number)
    return code, time.monotonic() - began_at


@pytest.mark.fault(10, 15, 17)
@both_kinds
async def test_the_shutdown_is_in_time_whatever_nodes_do(place: Installation, kind: str) -> None:
    """Hanging queries are left after the drain, uncommitted, with exit code 1; no process stays."""
    nodes = ("deaf", "stuck", "grips 120")
    with service_of(place, ENDLESS | SHORT_END | {"executor.kind": kind}, FAULTS) as service:
        ask(place, *nodes[:2])
        port = service.log[-1]["admin_port"]
        await until(lambda: "fivestage_in_flight 2.0" in get(port, "/metrics")[1], "two are in flight")
        if kind == "process":  # in threads it would block the whole service
            ask(place, nodes[2])
            await until(lambda: "fivestage_in_flight 3.0" in get(port, "/metrics")[1], "three are in flight")
        pids = processes_of(service)
        code, seconds = end_after(service)
        assert (code, seconds < ENDED_AFTER_S) == (1, True), f"{seconds:.1f} s"
        await until(lambda: not any(map(alive, pids)), "no process stays")
    assert SHORT_END["shutdown.total_timeout_ms"] / 1000 + LAST_WORDS_S < ENDED_AFTER_S / 2
    assert re.search(r"[23] queries were still in flight after", service.log[-1]["error"])
    assert results(place) == {}


@pytest.mark.fault(10)
@both_kinds
async def test_a_second_signal_ends_at_once(place: Installation, kind: str) -> None:
    """The first signal drains, the second ends at once; no process stays."""
    with service_of(place, ENDLESS | LONG_END | {"executor.kind": kind}, FAULTS) as service:
        ask(place, "naps 100")
        port = service.log[-1]["admin_port"]
        await until(lambda: "fivestage_in_flight 1.0" in get(port, "/metrics")[1], "it is in flight")
        pids = processes_of(service)
        assert service.process is not None
        service.process.send_signal(signal.SIGTERM)
        service.wait_for("draining")
        code, seconds = end_after(service)
        assert (code, seconds < ENDED_AFTER_S) == (1, True), f"{seconds:.1f} s"
        await until(lambda: not any(map(alive, pids)), "no process stays")
    assert results(place) == {}
