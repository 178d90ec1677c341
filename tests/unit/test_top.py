"""What ``fivestage top`` shows of a status document, and how it reads one."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from fivestage.cli.rows import OutputConsole
from fivestage.cli.top import live
from fivestage.cli.top.client import StatusClient, StatusError, base_url
from fivestage.cli.top.frame import frame
from fivestage.cli.top.live import Screen
from fivestage.cli.top.words import duration, rate, rough, sparkline
from fivestage.errors import ConfigurationError
from support import status_document as sample

if TYPE_CHECKING:
    from fivestage.observability.status.model import Status


def shown(status: Status, width: int = 120, height: int | None = None, *, unicode: bool = False) -> str:
    """Return a frame as text."""
    return "\n".join(line.plain for line in frame(status, width, height, unicode=unicode))


def test_blocks_in_order() -> None:
    """The blocks of the status page are there, in its order, with their figures."""
    text = shown(sample.status())
    wanted = [
        "fivestage ready",
        "300 partitions",
        "up 3 h 12 min",
        "* Only 99.4 % in time within 5 min; the objective is 99.5 %.",
        "- processing takes 92 % of the time of all stages (p50 41 ms, p95 96 ms).",
        "IN TIME   5 min 99.41 % burn 1.2x   1 h 99.87 % burn 0.3x   objective 99.50 %",
        "ANSWERED 412/s",
        "expired 3/s",
        "WHERE",
        "processing        41 / 96",
        "limit 120 now 144  timeout 0.4 %",
        "between stages      5 / 9",
        "10 % of the time",
        "p99 188 ms",
        "NODES",
        "RUNNING 38 of 256 (limit 180, learned)   waiting 2, oldest 12 ms   LAG 12 records, falling",
        "PARTITIONS   queries/1 halted",
        "WORKERS replaced 2, blocked 3",
        "blocked by llm at llm.py:7 ask",
        "abandoned: pricing for 4 s",
        "LAST SLOW, LATE, FAILED",
        "q-8812           error",
        "q-8810           degraded",
        "WHAT CHANGED",
        "breaker opened (2 times)  node=pricing reason=14 of 20 calls failed lane=prod",
    ]
    places = [text.find(part) for part in wanted]
    assert [part for part, at in zip(wanted, places, strict=True) if at < 0] == []
    assert places == sorted(places)


def test_broken_node_first() -> None:
    """A node whose breaker is open is the first, with since when, until when, and what it raised where."""
    lines = shown(sample.status()).splitlines()
    first = lines[next(number for number, line in enumerate(lines) if line.startswith("NODES")) + 1]
    assert first.startswith("pricing")
    assert "open since 14:02:11, again in 4 s  ConnectionError at pricing.py:31" in first


def test_a_node_that_blocks() -> None:
    """It follows broken nodes, with how often and when last."""
    lines = shown(sample.status(), width=160).splitlines()
    second = lines[next(number for number, line in enumerate(lines) if line.startswith("NODES")) + 2]
    assert second.startswith("llm")
    assert "blocks the loop, 3 times, last 14:02:20" in second


def test_a_node_that_fails_has_a_since() -> None:
    """Also while its breaker is closed."""
    nodes = [sample.node("pricing", failed=0.5, failing_since=sample.AT)]
    assert "closed, fails 50 % since 14:02:20" in shown(sample.status(nodes=nodes))


def test_unready() -> None:
    """A service that is not ready has its reason below the first line."""
    service = {**sample.status()["service"], "state": "unready", "reason": "no broker answers", "live": False}
    text = shown(sample.status(service=service))
    assert "fivestage unready" in text
    assert "no broker answers\nnot live" in text


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("height", [5, 15, 24, 50])
def test_size(width: int, height: int) -> None:
    """A frame never has more lines or longer ones than the terminal; what is left out is counted."""
    nodes = [sample.node(f"node-{number}") for number in range(40)]
    status = sample.status(nodes=nodes, recent=[sample.query(f"q-{number}") for number in range(50)])
    lines = shown(status, width, height).splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    if width >= 80 and height >= 50:
        assert "WHAT CHANGED" in "\n".join(lines)
        assert " more" in "\n".join(lines)


def test_long_lines() -> None:
    """A terminal cuts a long line, with a sign where it has UTF-8; a pipe gets the whole line."""
    status = sample.status(recent=[sample.query("q-1", why="x" * 300)])
    whole = next(line.plain for line in frame(status, None, unicode=False) if "xxx" in line.plain)
    assert whole.endswith("x" * 300)
    for unicode, end in ((True, "x…"), (False, "xx")):
        [cut] = [line for line in shown(status, 120, unicode=unicode).splitlines() if "xxx" in line]
        assert (len(cut), cut[-2:]) == (120, end)


def test_fields_of_an_event() -> None:
    """What says where and why comes first, whatever the order in the log."""
    fields = {
        "lane": "prod",
        "reason": "r",
        "count": 3,
        "error_type": "E",
        "where": "/app/a/b.py:31",
        "node": "llm",
    }
    event = {"at": sample.AT, "level": "error", "text": "node failed", "times": 1, "fields": fields}
    assert "node failed  node=llm where=b.py:31 error_type=E count=3 reason=r lane=prod" in shown(
        sample.status(events=[event])
    )


@pytest.mark.parametrize("unicode", [False, True])
def test_characters(unicode: bool) -> None:  # noqa: FBT001
    """Without UTF-8 all characters are ASCII."""
    assert shown(sample.status(), unicode=unicode).isascii() is not unicode


def test_nothing_yet() -> None:
    """A service that has just started, with no figures at all, is shown."""
    empty: dict[str, Any] = {"p50_ms": None, "p95_ms": None, "p99_ms": None}
    window = {"window_s": 300.0, "ended": 0, "in_time": None, "burn_rate": None}
    lists: dict[str, Any] = {key: [] for key in ("stages", "nodes", "partitions", "recent", "events")}
    text = shown(sample.status(latency=empty, windows=[window], **lists))
    assert "5 min -" in text
    assert not {"NODES", "LAST SLOW", "WHAT CHANGED"} & {line[:9] for line in text.splitlines()}


def test_control_characters() -> None:
    """Names and texts from elsewhere cannot control the terminal."""
    bad = "\x1b]0;x\x07\x1b[2J\n\r"
    failure = {"at": sample.AT, "error_type": bad, "where": bad}
    status = sample.status(
        service={**sample.status()["service"], "group": bad, "reason": bad, "state": bad, "version": bad},
        stages=[sample.stage(bad)],
        nodes=[sample.node(bad, lane=bad, last_failure=failure, breaker=bad)],
        partitions=[sample.partition(0, topic=bad, records=1)],
        recent=[sample.query(bad, why=bad, status=bad, at=bad)],
        events=[{"at": bad, "level": bad, "text": bad, "times": 1, "fields": {bad: bad}}],
    )
    assert all(line.isprintable() for line in shown(status).split("\n"))


@pytest.mark.parametrize("key", sorted(sample.status()))
@pytest.mark.parametrize("value", [None, 7, "x", [1], {"a": 1}])
def test_other_documents(key: str, value: object) -> None:
    """A document of another shape is shown, or refused with a sentence."""
    status: Any = copy.deepcopy(sample.status())
    status[key] = value
    with contextlib.suppress(StatusError):
        assert shown(status)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (None, "http://127.0.0.1:8080"),
        ("localhost", "http://localhost:8080"),
        ("web-1:9000", "http://web-1:9000"),
        ("http://web-1:9000/", "http://web-1:9000"),
        ("https://status.example/api/status", "https://status.example"),
        ("[::1]:9000", "http://[::1]:9000"),
    ],
)
def test_address(address: str | None, url: str) -> None:
    """An address may be a host, a host and a port, or a URL; none is the service of the settings."""
    assert base_url(address, "0.0.0.0", 8080) == url  # noqa: S104 - what a service listens on


@pytest.mark.parametrize(
    "address", [None, "", ":", "a:b", "localhost:99999", "http://a..b", "ftp://a", "[::1"]
)
def test_no_address(address: str | None) -> None:
    """What is no address, or a port that only the service knows, is refused with what to give."""
    with pytest.raises(ConfigurationError, match="give"):
        base_url(address, "127.0.0.1", 0)


def test_words() -> None:
    """Figures have the digits that matter."""
    assert [duration(one) for one in (0.25, 4, 65, 3600, 11_520, 90_000)] == [
        "250 ms", "4 s", "1 min 5 s", "1 h", "3 h 12 min", "1 d 1 h",
    ]  # fmt: skip
    assert [rate(one) for one in (0.0, 0.01, 1.25, 412.4)] == ["0", "<0.1", "1.2", "412"]
    assert [rough(one) for one in (None, 0.004, 0.2, 1.0)] == ["-", "0.4 %", "20 %", "100 %"]
    assert sparkline([0.0, 1.0, None, 8.0], 3, unicode=True) == "▂ █"


class Service:
    """An HTTP server that answers with a status, or as a test says."""

    def __init__(self) -> None:
        self.answer = web.json_response(sample.status())
        self.answers = asyncio.Event()
        self.answers.set()

    async def start(self, port: int = 0) -> int:
        """Listen; return the port."""
        application = web.Application()
        application.router.add_get("/api/status", self._answer)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the port."""
        await self._runner.cleanup()

    async def _answer(self, _: web.Request) -> web.Response:
        await self.answers.wait()
        return copy.copy(self.answer)


async def test_restart() -> None:
    """While a service restarts, the last frame stays, with what is wrong above it; then it goes on."""
    service = Service()
    port = await service.start()
    async with StatusClient(f"http://127.0.0.1:{port}") as client:
        screen = Screen(OutputConsole(), await client.status())
        await service.stop()
        await screen.update(client)
        away = screen.__rich__().plain
        await service.start(port)
        await screen.update(client)
        back = screen.__rich__().plain
        await service.stop()
    assert away.startswith("no answer for ")
    assert "fivestage ready" in away
    assert back.startswith("fivestage ready")


async def test_while_the_service_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a read hangs, the frame is drawn again and again, and a key ends it at once."""
    monkeypatch.setattr(live, "EVERY_S", 0.01)
    service, ended, drawn = Service(), asyncio.Event(), 0
    port = await service.start()

    def redraw() -> None:
        nonlocal drawn
        drawn += 1
        if drawn == 3:
            ended.set()

    async with StatusClient(f"http://127.0.0.1:{port}") as client:
        screen = Screen(OutputConsole(), await client.status())
        service.answers.clear()
        await live.update(screen, client, ended, redraw)
        assert (drawn, ended.is_set()) == (3, True)
        assert screen.__rich__().plain.startswith("fivestage ready")
    service.answers.set()
    await service.stop()


async def test_another_protocol() -> None:
    """A port that closes the connection, as Kafka's does, is another program's."""

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0)
    async with server, StatusClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        with pytest.raises(StatusError, match=r"no fivestage answers at .* such as Kafka's"):
            await client.status()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (web.Response(status=403, text="Host not allowed"), "answers with 403: Host not allowed"),
        (web.Response(status=404), "answers with 404: nothing more"),
        (web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}), "answers with 302"),
        (web.Response(body=b"\xff<html>"), "is no status of fivestage"),
        (web.Response(text="[1]"), "is no status of fivestage"),
    ],
    ids=str,
)
async def test_strange_answers(answer: web.Response, text: str) -> None:
    """Any other answer than a status is an error that says what came."""
    service = Service()
    service.answer = answer
    port = await service.start()
    async with StatusClient(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(StatusError, match=text):
            await client.status()
    await service.stop()
    with pytest.raises(StatusError, match=r"nothing answers at .* fivestage run"):
        async with StatusClient(f"http://127.0.0.1:{port}") as client:
            await asyncio.wait_for(client.status(), 20)
