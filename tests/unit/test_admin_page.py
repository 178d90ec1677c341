"""The status page's routes under attack: who may read them, and what a reader may cost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from multidict import CIMultiDict
from prometheus_client import CollectorRegistry

from fivestage import Pipeline
from fivestage.errors import ConfigurationError
from fivestage.observability import http_connections
from fivestage.observability.http_access import PageAccess, guard
from fivestage.observability.http_server import AdminServer, metrics_routes, probe_routes
from fivestage.observability.status import feed
from fivestage.observability.status.feed import MAX_STREAMS, EventFeed
from fivestage.observability.status.routes import status_routes
from fivestage.service.health import Health
from fivestage.settings import Settings
from support.status import StatusOfBus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

EVERYWHERE = "0.0.0.0"  # noqa: S104 - as in the image
STATUS, EVENTS = "/api/status", "/api/events"


class Served:
    """A server with the probes and the routes of the page."""

    def __init__(self, host: str = "127.0.0.1", allowed_hosts: tuple[str, ...] = ()) -> None:
        self.status = StatusOfBus(Pipeline(), wall_clock=time.time)
        self.feed = EventFeed(self.status.document)
        ready = Health(ok=True)
        probes = probe_routes(live=lambda: ready, ready=lambda: ready)
        access = PageAccess(host, allowed_hosts)
        metrics = guard(metrics_routes(CollectorRegistry()), access.metrics_refusal)
        page = guard(status_routes(self.feed), access.refusal)
        self.server = AdminServer(host=host, port=0, routes={**probes, **metrics, **page})
        self.port = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def connect(self, path: str, *headers: str, host: str = "localhost", method: str = "GET") -> Any:
        """Send a request; return the reader and writer of its connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        request = [f"{method} {path} HTTP/1.1", *([f"Host: {host}"] if host else []), *headers, "", ""]
        writer.write("\r\n".join(request).encode())
        return reader, writer

    async def ask(self, path: str, *headers: str, host: str = "localhost", method: str = "GET") -> str:
        """Return the response to a request."""
        reader, writer = await self.connect(path, "Connection: close", *headers, host=host, method=method)
        async with asyncio.timeout(20):
            answer: bytes = await reader.read()
        writer.close()
        return answer.decode()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """Serve on loopback."""
    async with serving(Served()) as found:
        yield found


@contextlib.asynccontextmanager
async def serving(served: Served) -> AsyncIterator[Served]:
    """Start and stop a server."""
    served.port = await served.server.start()
    async with served.status.bus:
        yield served
    served.feed.close()
    await served.server.stop()
    for writer in served.writers:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def next_event(reader: asyncio.StreamReader) -> tuple[str, dict[str, Any]]:
    """Return name and data of the next event of a stream."""
    name = ""
    async with asyncio.timeout(20):
        while True:
            line = (await reader.readline()).decode()
            assert line, "the stream has ended"
            if line.startswith("event: "):
                name = line.removeprefix("event: ").strip()
            elif line.startswith("data: "):
                return name, json.loads(line.removeprefix("data: "))


async def test_the_document_has_strict_headers(served: Served) -> None:
    """JSON that no browser stores, frames or takes for something else."""
    head, _, body = (await served.ask(STATUS)).partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200")
    assert json.loads(body)["service"]["state"] == "ready"
    for expected in (
        "Content-Type: application/json",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Referrer-Policy: no-referrer",
        "frame-ancestors 'none'",
        "default-src 'none'",
    ):
        assert expected in head
    assert "Access-Control-Allow" not in head


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080", "localhost.", "127.9.9.9"]
)
async def test_names_of_this_machine(served: Served, host: str) -> None:
    """Each name and address of loopback, with any port."""
    assert (await served.ask(STATUS, host=host)).startswith("HTTP/1.1 200")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "evil.example@localhost",
        "10.0.0.1",
        "localhost, evil.example",
        "[::1",
        "localhost:port",
        EVERYWHERE,
        "2130706433",
        " ",
        "",
    ],
)
async def test_names_of_other_sites(served: Served, host: str) -> None:
    """A page of another site reaches the server under its own name (DNS rebinding) and is refused."""
    for path in (STATUS, EVENTS, "/metrics"):
        if path == "/metrics" and host in {"10.0.0.1", EVERYWHERE}:
            continue  # no page of another site has an address as its name
        answer = await served.ask(path, host=host)
        assert answer.split()[1] in {"403", "400"}, answer
        assert "ready" not in answer
    assert (await served.ask("/readyz", host=host or "x")).split()[1] in {"200", "400"}


async def test_two_host_headers(served: Served) -> None:
    """Neither is believed."""
    for one, other in (("localhost", "evil.example"), ("evil.example", "localhost")):
        assert (await served.ask(STATUS, f"Host: {other}", host=one)).split()[1] in {"403", "400"}


async def test_large_cookies(served: Served) -> None:
    """A browser sends localhost the cookies of each service that runs there."""
    answer = await served.ask(STATUS, f"Cookie: session={'x' * 12_000}")
    assert answer.startswith("HTTP/1.1 200")


async def test_pages_of_other_sites(served: Served) -> None:
    """A browser says that another site asks; a link to the page may be followed."""
    for site, mode, status in (
        ("cross-site", "no-cors", "403"),
        ("same-site", "cors", "403"),
        ("same-origin", "cors", "200"),
        ("cross-site", "navigate", "200"),
    ):
        answer = await served.ask(STATUS, f"Sec-Fetch-Site: {site}", f"Sec-Fetch-Mode: {mode}")
        assert answer.split()[1] == status


class Asks:
    """A request as far as the access is decided by it."""

    def __init__(self, remote: str, host: str) -> None:
        self.remote = remote
        self.headers = CIMultiDict({"Host": host})


@pytest.mark.parametrize(
    ("host", "allowed", "remote", "asked", "served"),
    [
        ("127.0.0.1", (), "127.0.0.1", "localhost", True),
        (EVERYWHERE, (), "127.0.0.1", "localhost:8080", True),
        (EVERYWHERE, (), "172.17.0.1", "localhost:8080", False),
        ("::", (), "::1", "localhost", True),
        ("::", (), "::ffff:127.0.0.1", "localhost", True),
        ("::", (), "::ffff:10.0.0.9", "localhost", False),
        ("", (), "10.0.0.9", "localhost", False),
        ("0", (), "10.0.0.9", "localhost", False),
        ("::ffff:0.0.0.0", (), "10.0.0.9", "localhost", False),
        ("0.0", (), "10.0.0.9", "0", False),
        ("0x0.0.0.0", (), "10.0.0.9", "localhost", False),
        (EVERYWHERE, ("localhost",), "172.17.0.1", "localhost:8080", True),
        (EVERYWHERE, ("status.example",), "10.0.0.9", "status.example", True),
        (EVERYWHERE, ("status.example",), "10.0.0.9", "10.0.0.1", False),
        ("10.0.0.1", (), "10.0.0.9", "10.0.0.1:8080", True),
        ("10.0.0.1", (), "10.0.0.9", "evil.example", False),
        ("fd00::1", (), "fd00::9", "[fd00::1]:8080", True),
    ],
)
def test_beyond_this_machine(
    host: str, allowed: tuple[str, ...], remote: str, asked: str, *, served: bool
) -> None:
    """An address of admin.host opens the page; all addresses, as in the image, only with allowed_hosts."""
    request: Any = Asks(remote, asked)
    assert (PageAccess(host, allowed).refusal(request) is None) == served


@pytest.mark.parametrize(
    ("remote", "asked", "served"),
    [
        ("127.0.0.1", "localhost:8080", True),
        ("127.0.0.1", "10.0.0.1:8080", True),
        ("127.0.0.1", "status.example", True),
        ("127.0.0.1", "evil.example", False),
        ("::1", "evil.example:8080", False),
        ("::ffff:127.0.0.1", "evil.example", False),
        ("10.0.0.9", "fivestage.monitoring.svc:8080", True),
    ],
)
def test_scrapers_use_any_name_and_browsers_here_do_not(remote: str, asked: str, *, served: bool) -> None:
    """The metrics are open to the network; a browser on this machine must not read them for another site."""
    request: Any = Asks(remote, asked)
    assert (PageAccess(EVERYWHERE, ("status.example",)).metrics_refusal(request) is None) == served


@pytest.mark.parametrize("name", ["status.example:8080", "localhost:1", "[::1]:8080"])
def test_allowed_hosts_have_no_port(name: str) -> None:
    """A port would never match; the error says what to write."""
    with pytest.raises(ConfigurationError, match=r"admin.allowed_hosts: hosts have no port here"):
        Settings.load(None, {"admin": {"allowed_hosts": [name]}})


def test_allowed_hosts_may_be_addresses() -> None:
    """Names, IPv4 and IPv6."""
    names = ("status.example", "10.0.0.1", "fd00::1", "[fd00::2]")
    assert Settings(admin={"allowed_hosts": names}).admin.allowed_hosts == names


async def test_a_refusal_says_what_to_do() -> None:
    """It names the setting."""
    async with serving(Served(EVERYWHERE)) as served:
        answer = await served.ask(STATUS, host="status.example")
        assert "admin.allowed_hosts" in answer
        assert (await served.ask(STATUS)).startswith("HTTP/1.1 200")


async def test_a_stream_begins_with_the_whole_document(served: Served) -> None:
    """Then only what has changed follows."""
    reader, writer = await served.connect(EVENTS)
    name, whole = await next_event(reader)
    assert name == "status"
    assert whole.keys() == json.loads((await served.ask(STATUS)).partition("\r\n\r\n")[2]).keys()
    await served.status.bus.ask("2+2")
    while True:
        name, update = await next_event(reader)
        assert name == "update"
        assert "settings" not in update
        assert update.keys() < whole.keys()
        if "windows" in update:
            break
    assert update["windows"][0]["ended"] == 1
    assert "objective" not in update
    writer.close()


async def test_streams_are_few_and_leave_the_probes_alone(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams have their own limit; with all of them open, as many other connections are served as before."""
    monkeypatch.setattr(http_connections, "MAX_CONNECTIONS", 2)
    streams = [await served.connect(EVENTS) for _ in range(MAX_STREAMS)]
    for reader, _ in streams:
        await next_event(reader)
    refused = await served.ask(EVENTS)
    assert refused.startswith("HTTP/1.1 503")
    assert "Retry-After:" in refused
    held, _ = await served.connect("/livez")
    assert (await held.readline()).startswith(b"HTTP/1.1 200")
    assert (await served.ask("/livez")).startswith("HTTP/1.1 200")
    for _, writer in streams:
        writer.close()
    async with asyncio.timeout(20):
        while not (await first_line(served, EVENTS)).startswith("HTTP/1.1 200"):
            await asyncio.sleep(0.05)


async def first_line(served: Served, path: str) -> str:
    """Return the status line of a response, and hang up."""
    reader, writer = await served.connect(path)
    async with asyncio.timeout(20):
        line = (await reader.readline()).decode()
    writer.close()
    return str(line)


async def test_a_stream_outlives_other_connections(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit of connections does not end it."""
    monkeypatch.setattr(http_connections, "CONNECTION_S", 0.3)
    reader, writer = await served.connect(EVENTS)
    await next_event(reader)
    quiet, _ = await served.connect("/livez")
    async with asyncio.timeout(20):
        await quiet.read()  # until it is cut off
    await next_event(reader)
    await next_event(reader)
    writer.close()


async def test_a_slow_reader_is_dropped(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does not read is not kept, and its place becomes free; others go on."""
    monkeypatch.setattr(feed, "WRITE_S", 0.3)
    monkeypatch.setattr(feed, "UPDATE_S", 0.02)
    slow, _ = await served.connect(EVENTS)
    slow._transport.pause_reading()
    other, _ = await served.connect(EVENTS)
    text = "x" * 400
    async with asyncio.timeout(60):
        while served.feed.streams != 1:
            for number in range(200):  # another long list of events for each update
                served.status.events.remember({"event": f"{number} {text}"})
            await next_event(other)


async def test_streams_end_with_the_service(served: Served) -> None:
    """At once, and no new one begins."""
    reader, _ = await served.connect(EVENTS)
    await next_event(reader)
    served.feed.close()
    async with asyncio.timeout(20):
        rest = await reader.readuntil(b"0\r\n\r\n")
    assert rest.endswith(b"0\r\n\r\n")
    refused = await served.ask(EVENTS)
    assert refused.startswith("HTTP/1.1 503")
    assert "the service ends" in refused
    assert "are open" not in refused


async def test_without_streams_nothing_is_computed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams share a document; when the last one ends, none is made."""
    made = 0
    sections = served.status.document.sections

    async def counted() -> dict[str, bytes]:
        nonlocal made
        made += 1
        return await sections()

    monkeypatch.setattr(served.status.document, "sections", counted)
    streams = [await served.connect(EVENTS) for _ in range(3)]
    for _ in range(3):
        for reader, _ in streams:
            await next_event(reader)
    for _, writer in streams:
        writer.close()
    async with asyncio.timeout(20):
        while served.feed.streams:
            await asyncio.sleep(0.05)
    assert made
    made = 0
    await served.ask("/livez")
    await asyncio.sleep(3 * feed.UPDATE_S)
    assert made == 0


async def test_head_of_a_stream(served: Served) -> None:
    """Ends after the headers."""
    answer = await served.ask(EVENTS, method="HEAD")
    assert answer.startswith("HTTP/1.1 200")
    assert "text/event-stream" in answer
    assert answer.endswith("\r\n\r\n")
