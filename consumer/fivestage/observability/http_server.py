"""Serves ``/livez``, ``/readyz`` and ``/metrics``, on the bus loop, so that a blocked loop fails the probes.

A client can only read them: GET and HEAD are the only methods. The number of connections, their duration and
their headers are limited, so that the probes of the orchestrator are always served before long.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import web

from fivestage.errors import ConfigurationError
from fivestage.observability.exposition import render

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry

    from fivestage.service.health import Health

MAX_CONNECTIONS: Final = 64
CONNECTION_S: Final = 10.0
"""How long a connection may stay open: request, response, and keep-alive together."""
MAX_LINE_BYTES: Final = 2048
MAX_HEADER_BYTES: Final = 4096
MAX_HEADERS: Final = 64


class AdminServer:
    """Serves the probes and the metrics.

    Args:
        host: The address to listen on.
        port: 0 takes any free port.
        live: Returns whether the event loops run and work progresses. Does not contact the broker.
        ready: Returns whether queries are being consumed and can be answered.
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
        """Start listening and return the port.

        Raises:
            ConfigurationError: the host and port cannot be used.
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
        """Render in a thread, one scrape at a time: it takes milliseconds, which would delay queries."""
        async with self._rendering:
            accept = request.headers.get("Accept", "")
            body, content_type = await asyncio.to_thread(render, self._registry, accept)
        return web.Response(body=body, headers={"Content-Type": content_type})


def _probe(health: Health) -> web.Response:
    return web.Response(status=200 if health.ok else 503, text=health.reason + "\n")


class _Server(web.Server):
    """Handles each connection with ``_Connection``."""

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    """A connection, limited in number and in time."""

    _expiry: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the time limit; abort if there are too many connections."""
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP
        server = self._manager
        if server is not None and len(server.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._expiry = asyncio.get_running_loop().call_later(CONNECTION_S, transport.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Cancel the time limit."""
        if self._expiry is not None:
            self._expiry.cancel()
        super().connection_lost(exc)
