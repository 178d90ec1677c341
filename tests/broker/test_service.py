"""The service as a process on the embedded broker: probes, logs, and starts that cannot succeed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import threading
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from fivestage import Pipeline
from fivestage.bus.embedded import EmbeddedBroker
from fivestage.settings import TopicSettings
from fivestage.telemetry.logging import announce
from support.checker import read_all, wait_for_results
from support.feeder import event, write
from support.process import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from fivestage import Query, StageContext

pytestmark = pytest.mark.broker
TOPICS = TopicSettings()
CANARY = "canary-7f3a"


@pytest.fixture
async def bootstrap() -> AsyncIterator[str]:
    """An embedded broker with the five topics."""
    async with EmbeddedBroker(TOPICS.all, partitions=2) as broker:
        yield broker.bootstrap


def get(port: int, path: str) -> tuple[int, str]:
    """Status and body of a page of the admin server."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def test_probes_and_metrics(bootstrap: str) -> None:
    """A ready service says so, counts what it did, and its probes take nothing but GET."""
    with ServiceProcess("support.apps:load", bootstrap) as service:
        port = service.log[-1]["admin_port"]
        write(bootstrap, TOPICS.queries, [("a", event("a", "fast")), ("b", b"{")])
        wait_for_results(bootstrap, TOPICS.results, 1)
        wait_for_results(bootstrap, TOPICS.dead_letters, 1)
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


async def test_query_text_stays_out_of_the_logs(bootstrap: str) -> None:
    """Questions, answers and exception texts are published, but not logged, at DEBUG either."""
    with ServiceProcess("support.apps:load", bootstrap, arguments=["--log-level", "DEBUG"]) as service:
        texts = ("fast", "raises", "exits", "garbage", "slow")
        values = [(name, event(name, f"{name} {CANARY}")) for name in texts]
        write(bootstrap, TOPICS.queries, [*values, ("bad", f'{{"query_id":"bad","{CANARY}":'.encode())])
        wait_for_results(bootstrap, TOPICS.results, len(texts))
        assert service.end() == 0
    assert CANARY.encode() in b"".join(
        message.value() or b"" for message in read_all(bootstrap, TOPICS.results)
    )
    assert service.log
    assert CANARY not in json.dumps(service.log)


@pytest.mark.parametrize("kind", ["thread", "process"])
@pytest.mark.parametrize("shown", [False, True])
async def test_what_nodes_raise_is_logged(bootstrap: str, kind: str, *, shown: bool) -> None:
    """With the author's line, node, stage and query, wherever nodes run; its text by a setting."""
    settings = {"executor.kind": kind, "logging.show_text": shown}
    with ServiceProcess("support.apps:load", bootstrap, settings) as service:
        write(bootstrap, TOPICS.queries, [("q", event("q", "raises"))])
        wait_for_results(bootstrap, TOPICS.results, 1)
        assert service.end() == 0
    [line] = [line for line in service.log if line.get("logger") == "fivestage.nodes"]
    assert re.fullmatch(r"node 'raises' failed: ValueError at .*/support/apps\.py:\d+", line["event"])
    assert (line["node"], line["stage"], line["query_id"]) == ("raises", "processing", "q")
    assert line.get("error") == ("cannot answer 6 characters" if shown else None)


@pytest.mark.fault(40)
async def test_admin_port_taken(bootstrap: str) -> None:
    """An admin port in use ends the start with exit code 2 and says what to set."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        service = ServiceProcess("support.apps:load", bootstrap, {"admin.port": taken.getsockname()[1]})
        service.launch()
        assert service.wait(20) == 2
    assert "admin.port" in service.log[-1]["error"]


def refused() -> str:
    """An address where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.fault(34)
@pytest.mark.parametrize(
    ("address", "said"),
    [
        (refused(), "connection refused, nothing listens there"),
        ("no-such-host.invalid:9092", "the host name is not known"),
        ("localhost", "is not host:port"),
    ],
)
def test_wrong_address(address: str, said: str) -> None:
    """A wrong address ends the start with exit code 2 within 20 s and one line that says why."""
    service = ServiceProcess("support.apps:load", address, {"kafka.allow_plaintext": True})
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


@pytest.mark.fault(16)
@pytest.mark.parametrize(("node", "status"), [("ends-loop", "success"), ("exits-in-task", "error")])
async def test_a_node_that_would_end_the_executor(bootstrap: str, node: str, status: str) -> None:
    """A node that stops its loop, or exits in a task, answers for its own query only: the service goes on."""
    with ServiceProcess("support.apps:load", bootstrap) as service:
        for query_id, text in (
            ("a", node),
            ("b", "fast"),
        ):  # one after the other: the second finds the loop so
            write(bootstrap, TOPICS.queries, [(query_id, event(query_id, text))])
            wait_for_results(bootstrap, TOPICS.results, 1 if query_id == "a" else 2)
        assert get(service.log[-1]["admin_port"], "/livez") == (200, "ok\n")
        assert service.end() == 0
    results = [json.loads(message.value() or b"") for message in read_all(bootstrap, TOPICS.results)]
    assert {result["query_id"]: result["status"] for result in results} == {"a": status, "b": "success"}


stuck = Pipeline(builtins=False)
"""Run as ``broker.test_service:stuck``: nodes whose code runs on for ever, and one that answers."""
STUCK_NODES = ("stuck-1", "stuck-2", "stuck-3")


@stuck.decision
async def _decide(query: Query, _ctx: StageContext) -> str:
    return query.user_input


def _block(_query: Query, _ctx: StageContext) -> None:
    threading.Event().wait()


for _name in STUCK_NODES:
    stuck.node(_name)(_block)


@stuck.node("leaves")
async def _leaves(_query: Query, _ctx: StageContext) -> str:
    """Its background task blocks the loop."""
    asyncio.get_running_loop().call_soon(_poll)
    return "left"


def _poll() -> None:
    threading.Event().wait()


@stuck.node("spins")
def _spin(_query: Query, _ctx: StageContext) -> None:
    """Burns CPU."""
    while True:
        pass


@stuck.node("fast")
async def _fast(_query: Query, _ctx: StageContext) -> str:
    return "fast"


async def unready(port: int) -> str:
    """Wait until a service is not ready any more; the reason."""
    async with asyncio.timeout(60):
        while (probe := await asyncio.to_thread(get, port, "/readyz"))[0] == 200:
            await asyncio.sleep(0.1)
    return probe[1]


def statuses(bootstrap: str) -> dict[str, str]:
    """How queries have ended, by their ids."""
    results = [json.loads(message.value() or b"") for message in read_all(bootstrap, TOPICS.results)]
    return {result["query_id"]: result["status"] for result in results}


@pytest.mark.fault(15, 17)
async def test_calls_that_never_come_back(bootstrap: str) -> None:
    """More of them than allowed make the service unready, then end it with exit code 1; it names the nodes.

    Until then everything else is answered. This takes as long as code has to come back (RUN_ON_S).
    """
    with ServiceProcess("broker.test_service:stuck", bootstrap, {"executor.max_abandoned": 1}) as service:
        port = service.log[-1]["admin_port"]
        write(bootstrap, TOPICS.queries, [(name, event(name, name)) for name in STUCK_NODES])
        wait_for_results(bootstrap, TOPICS.results, 3)
        write(bootstrap, TOPICS.queries, [("fast", event("fast", "fast"))])
        wait_for_results(bootstrap, TOPICS.results, 4)
        reason = await unready(port)
        assert await asyncio.to_thread(service.wait, 20) == 1
    assert re.match(
        r"[23] calls have run on for 10 s after their end \(executor.max_abandoned = 1\): ", reason
    )
    assert service.log[-1]["error_type"] == "ExecutorError"
    assert ", ".join(STUCK_NODES) in service.log[-1]["error"]
    assert statuses(bootstrap) == {**dict.fromkeys(STUCK_NODES, "timeout"), "fast": "success"}


async def test_background_tasks_that_block_loops(bootstrap: str) -> None:
    """They are counted like calls; the service ends with exit code 1 and the line that blocks."""
    with ServiceProcess("broker.test_service:stuck", bootstrap, {"executor.max_abandoned": 1}) as service:
        port = service.log[-1]["admin_port"]
        for number in range(2):
            write(bootstrap, TOPICS.queries, [("leaves", event(f"leaves-{number}", "leaves"))])
            wait_for_results(bootstrap, TOPICS.results, 2 * number + 1)
            # finds the loop blocked: one without queries is not looked at
            write(bootstrap, TOPICS.queries, [("fast", event(f"fast-{number}", "fast"))])
            wait_for_results(bootstrap, TOPICS.results, 2 * number + 2)
        reason = await unready(port)
        assert await asyncio.to_thread(service.wait, 20) == 1
    assert reason.startswith("2 calls have run on for 10 s after their end (executor.max_abandoned = 1): ")
    assert re.search(r"test_service\.py:\d+ _poll blocks", reason)
    assert service.log[-1]["error"] == reason.strip()


async def test_code_that_burns_cpu(bootstrap: str) -> None:
    """One call is enough to end the service with exit code 1, after RUN_ON_S; it names the node."""
    with ServiceProcess("broker.test_service:stuck", bootstrap) as service:
        port = service.log[-1]["admin_port"]
        write(bootstrap, TOPICS.queries, [(name, event(name, name)) for name in ("spins", "stuck-1")])
        wait_for_results(bootstrap, TOPICS.results, 2)
        reason = await unready(port)
        assert await asyncio.to_thread(service.wait, 20) == 1
    assert reason.startswith("code of spins has kept over half a core busy for 10 s after its queries ended")
    assert (service.log[-1]["error_type"], service.log[-1]["error"]) == ("ExecutorError", reason.strip())
    assert statuses(bootstrap) == {"spins": "timeout", "stuck-1": "timeout"}


unopened = Pipeline()
closes = Pipeline()


@unopened.resource
def missing_model() -> Iterator[str]:
    """There is no such file."""
    with open("no-such-model.bin", encoding="utf-8") as file:  # noqa: PTH123 - as authors write it
        yield file.read()


@closes.resource
async def client() -> AsyncIterator[str]:
    """Says when it closes."""
    yield "client"
    announce("client closed")


@closes.node("client", intents={"greeting"})
async def _uses(_query: Query, ctx: StageContext) -> str:
    return ctx.use(client)


async def test_a_resource_that_does_not_open(bootstrap: str) -> None:
    """The service tries until executor.start_timeout_ms, then exits with 1 and says what failed where."""
    settings = {"executor.kind": "inline", "executor.start_timeout_ms": 500}
    service = ServiceProcess("broker.test_service:unopened", bootstrap, settings)
    service.launch()
    assert await asyncio.to_thread(service.wait, 30) == 1
    first, second, third = service.log[-1]["error"].splitlines()
    assert service.log[-1]["error_type"] == "ResourceError"
    assert first == "resource 'missing_model' could not be opened within 0.5 s (executor.start_timeout_ms):"
    assert second == "  FileNotFoundError: [Errno 2] No such file or directory: 'no-such-model.bin'"
    assert re.search(r"test_service\.py:\d+, in missing_model$", third)
    assert {"a resource did not open", "ended"} <= {line["event"] for line in service.log}


async def test_resources_close_when_the_service_ends(bootstrap: str) -> None:
    """They are open for the first query, and closed before the process ends."""
    with ServiceProcess("broker.test_service:closes", bootstrap, {"executor.kind": "inline"}) as service:
        write(bootstrap, TOPICS.queries, [("a", event("a", "hello"))])
        wait_for_results(bootstrap, TOPICS.results, 1)
        [result] = read_all(bootstrap, TOPICS.results)
        assert json.loads(result.value() or b"")["answer"] == "client"
        assert await asyncio.to_thread(service.end) == 0
    assert "client closed" in [line["event"] for line in service.log]
