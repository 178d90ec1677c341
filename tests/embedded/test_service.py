"""The service as a process on the embedded broker: what nodes do to it, probes, logs, starts, and ends.

Where the kind of executor matters, with each of them.
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
from support.embedded import Broker, Installation
from support.feeder import event, write
from support.jobs import until
from support.kinds import alive
from support.probe import get
from support.process import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytestmark = pytest.mark.broker
CANARY = "canary-7f3a"
GENEROUS = {
    "pipeline.total_timeout_ms": 20_000,
    "pipeline.stage_timeouts_ms": {**dict.fromkeys(StageType, 20_000), StageType.PROCESSING: 3000},
    "adaptive.enabled": False,
    "executor.stall_ms": 5000,
}
"""A busy machine reaches these with no node that answers."""
ENDLESS = {
    "pipeline.total_timeout_ms": 120_000,
    "pipeline.stage_timeouts_ms": dict.fromkeys(StageType, 120_000),
    "executor.stall_ms": 60_000,
}
LONG_END = {"shutdown.drain_timeout_ms": 100_000, "shutdown.total_timeout_ms": 110_000}
SHORT_END = {"shutdown.drain_timeout_ms": 500, "shutdown.total_timeout_ms": 2000}
ENDED_AFTER_S = 10.0
"""The end is promised in 4 s at most; no machine is so busy that it takes as long as this."""
FAULTS, STUCK = "support.pipelines:app", "support.stuck_app:app"
STUCK_NODES = ("stuck-1", "stuck-2")
RUN_ON_S = 2.0
"""In the app STUCK; imported from there, it would be so in this process too."""
STUCK_LIMITS = GENEROUS | {
    "pipeline.stage_timeouts_ms": {**dict.fromkeys(StageType, 20_000), StageType.PROCESSING: 1000},
    "executor.stall_ms": 1000,
}
"""Likewise, in less time, for nodes of which most do not answer."""
both_kinds = pytest.mark.parametrize("kind", ["thread", "process"])


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """One for all tests of the module."""
    with Broker() as broker:
        yield broker


@pytest.fixture
def place(broker: Broker) -> Installation:
    """Topics and a group of the test's own."""
    return broker.installation()


def service_of(
    place: Installation,
    settings: Mapping[str, object],
    app: str = "support.apps:load",
    arguments: tuple[str, ...] = (),
) -> ServiceProcess:
    """A service on these topics."""
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
    """The terminal events, by the ids of their queries; each has one."""
    found = [json_of(message) for message in read_all(place.bootstrap, place.topics.results)]
    assert len({result["query_id"] for result in found}) == len(found)
    return {result["query_id"]: result for result in found}


def statuses(place: Installation) -> dict[str, str]:
    """How queries have ended, by their ids."""
    return {query_id: result["status"] for query_id, result in results(place).items()}


def processes_of(service: ServiceProcess) -> list[int]:
    """A service's process and those that it has started, in their turn too."""
    assert service.process is not None
    found = [service.process.pid]
    for pid in found:
        found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return found


def test_probes_and_metrics(place: Installation) -> None:
    """A ready service says so, counts what it did, and its probes take nothing but GET."""
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


# What nodes do

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
"""Nodes, and how their queries end."""


@pytest.mark.fault(16)
@both_kinds
def test_nodes_at_their_worst(place: Installation, kind: str) -> None:
    """Each is answered for by its own query; the service goes on, and ends in order.

    Questions, answers and what nodes raise are published, but not logged, at DEBUG either.
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
def test_what_nodes_raise_is_logged(place: Installation, kind: str) -> None:
    """With the author's line, node, stage and query, wherever nodes run; with its text by a setting."""
    settings = GENEROUS | {"executor.kind": kind, "logging.show_text": True}
    with service_of(place, settings) as service:
        ask(place, "raises")
        wait(place, 1)
        assert service.end() == 0
    [line] = [line for line in service.log if line.get("logger") == "fivestage.nodes"]
    assert re.fullmatch(r"node 'raises' failed: ValueError at .*/support/apps\.py:\d+", line["event"])
    assert (line["node"], line["stage"], line["query_id"]) == ("raises", "processing", "raises")
    assert line["error"] == "cannot answer 6 characters"


# Starts that cannot succeed


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
    """An address where nothing listens, and nothing else can meanwhile."""
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
    ],
    ids=["refused", "unknown", "no-port"],
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
    assert "cannot import support.no_such:app" in service.log[0]["line"]


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


# Code that never comes back


def unready(port: int) -> str:
    """Wait until a service is not ready any more; the reason."""
    ends_at = time.monotonic() + 60
    while (probe := get(port, "/readyz"))[0] == 200:
        assert time.monotonic() < ends_at, "the service has been ready for 60 s"
        time.sleep(0.05)
    return probe[1]


@pytest.mark.fault(15, 17)
def test_calls_that_never_come_back(place: Installation) -> None:
    """More of them than allowed make the service unready, then end it with exit code 1; it names the nodes.

    Until then everything else is answered.
    """
    with service_of(place, STUCK_LIMITS | {"executor.max_abandoned": 1}, STUCK) as service:
        port = service.log[-1]["admin_port"]
        ask(place, "stuck-1")
        wait(place, 1)
        ask(place, "fast")
        wait(place, 2)  # the service does not end before it: one call is allowed
        ask(place, "stuck-2")
        reason = unready(port)
        assert service.wait() == 1
    text = f"2 calls have run on for {RUN_ON_S:.0f} s after their end (executor.max_abandoned = 1): "
    assert reason.startswith(text + ", ".join(STUCK_NODES))
    assert (service.log[-1]["error_type"], service.log[-1]["error"]) == ("ExecutorError", reason.strip())
    assert statuses(place) == {**dict.fromkeys(STUCK_NODES, "timeout"), "fast": "success"}


def test_background_tasks_that_block_loops(place: Installation) -> None:
    """They are counted like calls; the service ends with exit code 1 and the line that blocks."""
    with service_of(place, STUCK_LIMITS | {"executor.max_abandoned": 1}, STUCK) as service:
        port = service.log[-1]["admin_port"]
        for number in range(4):
            wait(place, number)
            node = ("leaves", "fast")[number % 2]  # that finds the loop blocked: an idle one is not looked at
            query_id = f"{node}-{number}"
            write(place.bootstrap, place.topics.queries, [(query_id, event(query_id, node))])
        reason = unready(port)
        assert service.wait() == 1
    text = f"2 calls have run on for {RUN_ON_S:.0f} s after their end (executor.max_abandoned = 1): "
    assert reason.startswith(text)
    assert re.search(r"stuck_app\.py:\d+ _poll blocks", reason)
    assert service.log[-1]["error"] == reason.strip()


def test_code_that_burns_cpu(place: Installation) -> None:
    """One call is enough to end the service with exit code 1, after RUN_ON_S; it names the node."""
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
    """The service tries until executor.start_timeout_ms, then exits with 1 and says what failed where."""
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
    """They are open for the first query, and closed before the process ends."""
    settings = GENEROUS | {"executor.kind": kind}
    with service_of(place, settings, "support.resourceful_apps:closes") as service:
        write(place.bootstrap, place.topics.queries, [("a", event("a", "hello"))])
        wait(place, 1)
        assert results(place)["a"]["answer"] == "client"
        assert service.end() == 0
    assert "client closed" in [line["event"] for line in service.log]


# The end


def end_after(service: ServiceProcess, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
    """Send a signal; the exit code, and the seconds until then."""
    began_at = time.monotonic()
    code = service.end(number)
    return code, time.monotonic() - began_at


@pytest.mark.fault(10, 15, 17)
@both_kinds
async def test_the_end_is_in_time_whatever_nodes_do(place: Installation, kind: str) -> None:
    """Queries whose code hangs are left after the drain, with exit code 1, uncommitted; no process stays."""
    nodes = ("deaf", "stuck", "grips 120")
    with service_of(place, ENDLESS | SHORT_END | {"executor.kind": kind}, FAULTS) as service:
        ask(place, *nodes[:2])
        port = service.log[-1]["admin_port"]
        await until(lambda: "fivestage_in_flight 2.0" in get(port, "/metrics")[1], "two are in flight")
        if kind == "process":  # in threads it would hold the whole service
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
    """The first one waits for what runs, the second for nothing; no process stays."""
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
