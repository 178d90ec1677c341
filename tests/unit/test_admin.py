"""The admin endpoints under attack: what can be requested, and what a request may cost."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from fivestage.observability import http_connections
from fivestage.observability.http_server import AdminServer, metrics_routes, probe_routes
from fivestage.service.health import Health

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CANARY = "canary-7f3a"


def broken() -> Health:
    """Fail as a probe with a bug does."""
    raise RuntimeError(CANARY)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Start an admin server by itself."""
    probes = probe_routes(live=lambda: Health(ok=True), ready=broken)
    routes = {**probes, **metrics_routes(CollectorRegistry())}
    admin = AdminServer(host="127.0.0.1", port=0, routes=routes)
    yield await admin.start()
    await admin.stop()


async def ask(port: int, request: str) -> str:
    """Send a request and return the response, until its end or a time limit."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request.encode())
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                return (await reader.read()).decode()
        return ""
    finally:
        writer.close()


def get(path: str, *headers: str, method: str = "GET") -> str:
    """Build a request without keep-alive."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""])


async def test_pages(port: int) -> None:
    """Known pages answer; HEAD has no body."""
    answer = await ask(port, get("/livez"))
    assert answer.startswith("HTTP/1.1 200")
    assert answer.endswith("\r\n\r\nok\n")
    assert (await ask(port, get("/livez", method="HEAD"))).endswith("\r\n\r\n")
    assert (await ask(port, get("/metrics"))).startswith("HTTP/1.1 200")
    for path in ("/", "/config", "/livez/", "/../livez", "/debug/pprof"):
        assert (await ask(port, get(path))).startswith("HTTP/1.1 404"), path


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"])
async def test_nothing_can_be_changed(port: int, method: str) -> None:
    """No method changes anything."""
    answer = await ask(port, get("/livez", method=method))
    assert answer.split()[1] in {"405", "400"}, answer


async def test_errors_have_no_details(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    """A bug is a 500 without details."""
    for accept in ("text/html", "*/*"):
        answer = await ask(port, get("/readyz", f"Accept: {accept}"))
        assert answer.startswith("HTTP/1.1 500")
        assert CANARY not in answer
        assert "Traceback" not in answer
        assert ".py" not in answer
    capfd.readouterr()


@pytest.mark.parametrize(
    "request_text",
    [
        get("/" + "x" * (http_connections.MAX_LINE_BYTES + 10)),
        get("/livez", "X: " + "x" * (http_connections.MAX_HEADER_BYTES + 10)),
        get("/livez", *(f"X{n}: x" for n in range(http_connections.MAX_HEADERS + 10))),
        "nonsense\r\n\r\n",
        "\x16\x03\x01",
    ],
    ids=["long line", "long header", "many headers", "nonsense", "TLS"],
)
async def test_requests_have_limits(port: int, request_text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests over the limits are rejected, and the server continues."""
    monkeypatch.setattr(http_connections, "CONNECTION_S", 0.5)
    assert (await ask(port, request_text)).partition("\r\n")[0] in {
        "",
        "HTTP/1.0 400 Bad Request",
        "HTTP/1.1 400 Bad Request",
        "HTTP/1.1 431 Request Header Fields Too Large",
    }
    assert (await ask(port, get("/livez"))).startswith("HTTP/1.1 200")


@pytest.mark.parametrize("started", ["", "GET /liv", get("/livez", "Content-Length: 1000000000")])
async def test_a_connection_does_not_live_for_ever(
    port: int, started: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow and endless requests are cut off."""
    monkeypatch.setattr(http_connections, "CONNECTION_S", 0.2)
    await ask(port, started.replace("Connection: close", "Connection: keep-alive"))  # the response


async def test_connections_are_few(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections over the limit are closed at once; ended ones make room again."""
    monkeypatch.setattr(http_connections, "MAX_CONNECTIONS", 5)
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
    assert await ask(port, get("/livez")) == ""
    for _, writer in held:
        writer.close()
        await writer.wait_closed()
    async with asyncio.timeout(10):
        while not (await ask(port, get("/livez"))).startswith("HTTP/1.1 200"):
            await asyncio.sleep(0.01)
