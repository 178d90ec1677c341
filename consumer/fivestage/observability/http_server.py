"""``/livez``, ``/readyz``, ``/metrics``: read-only, on the bus loop, so that a stuck loop cannot answer.

Whoever reaches the port can do no more than read them: there are no other methods, and what a connection may
cost (time, headers, how many there are) is bounded, so that the probes always get through in the end.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import web

from fivestage.errors import ConfigurationError
from fivestage.observability.metrics import render

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry

    from fivestage.service.health import Health

MAX_CONNECTIONS: Final = 64
CONNECTION_S: Final = 10.0
"""How long a connection may live: to ask, to be answered, and to read the answer."""
MAX_LINE_BYTES: Final = 2048
MAX_HEADER_BYTES: Final = 4096
MAX_HEADERS: Final = 64


class AdminServer:
    """Serves the probes and the metrics.

    Args:
        live: Whether the loops turn and work progresses. Never asks the broker.
        ready: Whether queries are being taken and can be answered.
        registry: The metrics.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        live: Callable[[], Health],
        ready: Callable[[], Health],
        registry: CollectorRegistry,
    ) -> None:
        self._host = host
        self._port = port
        self._live = live
        self._ready = ready
        self._registry = registry
        self._rendering = asyncio.Lock()
        self._runner: web.ServerRunner | None = None

    async def start(self) -> int:
        """Listen; returns the port.

        Raises:
            ConfigurationError: the address cannot be listened on.
        """
        server = _Server(
            self._answer,
            access_log=None,
            keepalive_timeout=CONNECTION_S,
            lingering_time=1.0,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
        )
        self._runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {self._host}:{self._port} (admin.host, admin.port): {error.strerror}. "
                "Choose another port, or 0 for any free one"
            ) from None
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method not in {"GET", "HEAD"}:
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"])
        match request.path:
            case "/livez":
                return _probe(self._live())
            case "/readyz":
                return _probe(self._ready())
            case "/metrics":
                return await self._metrics(request)
        raise web.HTTPNotFound

    async def _metrics(self, request: web.BaseRequest) -> web.Response:
        """Rendered in a thread, one scrape at a time: it takes milliseconds, and queries come first."""
        async with self._rendering:
            accept = request.headers.get("Accept", "")
            body, content_type = await asyncio.to_thread(render, self._registry, accept)
        return web.Response(body=body, headers={"Content-Type": content_type})


def _probe(health: Health) -> web.Response:
    return web.Response(status=200 if health.ok else 503, text=health.reason + "\n")


class _Server(web.Server):
    """Makes a connection's end of ours instead of aiohttp's own."""

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    """One of a limited number, for a limited time."""

    _over: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless there are too many."""
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP
        server = self._manager
        if server is not None and len(server.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._over = asyncio.get_running_loop().call_later(CONNECTION_S, transport.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        if self._over is not None:
            self._over.cancel()
        super().connection_lost(exc)
