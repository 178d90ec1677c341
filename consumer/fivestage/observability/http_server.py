"""Serves the probes, the metrics and other routes on the bus loop, so that a blocked loop fails the probes.

A client can only read: GET and HEAD are the only methods.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from aiohttp import web

from fivestage.errors import ConfigurationError
from fivestage.observability.exposition import render
from fivestage.observability.http_connections import LimitedServer

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from fivestage.service.health import Health

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Routes = Mapping[str, Handler]
"""Handlers by exact path."""


class AdminServer:
    """Serves GET and HEAD.

    Args:
        host: The address to listen on.
        port: 0 takes any free port.
        routes: What is served.
    """

    def __init__(self, *, host: str, port: int, routes: Routes) -> None:
        self._host = host
        self._port = port
        self._routes = routes
        self._runner: web.ServerRunner | None = None

    async def start(self) -> int:
        """Start listening and return the port.

        Raises:
            ConfigurationError: the host and port cannot be used.
        """
        self._runner = web.ServerRunner(
            LimitedServer(self._answer), handle_signals=False, shutdown_timeout=1.0
        )
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
        handler = self._routes.get(request.path)
        if handler is None:
            raise web.HTTPNotFound
        return await handler(request)


def probe_routes(*, live: Callable[[], Health], ready: Callable[[], Health]) -> Routes:
    """Return the routes of the probes.

    Args:
        live: Returns whether the event loops run and work progresses. Does not contact the broker.
        ready: Returns whether queries are being consumed and can be answered.
    """

    async def livez(_: web.BaseRequest) -> web.StreamResponse:
        return _probe(live())

    async def readyz(_: web.BaseRequest) -> web.StreamResponse:
        return _probe(ready())

    return {"/livez": livez, "/readyz": readyz}


def metrics_routes(registry: CollectorRegistry) -> Routes:
    """Return the route of the metrics."""
    rendering = asyncio.Lock()

    async def metrics(request: web.BaseRequest) -> web.StreamResponse:
        """Render in a thread, one scrape at a time: it takes milliseconds, which would delay queries."""
        async with rendering:
            accept = request.headers.get("Accept", "")
            body, content_type = await asyncio.to_thread(render, registry, accept)
        return web.Response(body=body, headers={"Content-Type": content_type})

    return {"/metrics": metrics}


def _probe(health: Health) -> web.Response:
    return web.Response(status=200 if health.ok else 503, text=health.reason + "\n")
