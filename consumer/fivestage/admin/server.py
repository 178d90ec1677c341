"""``/livez``, ``/readyz``, ``/metrics``: read-only, on the bus loop, so that a stuck loop cannot answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from fivestage.errors import ConfigurationError
from fivestage.telemetry.metrics import render

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry

    from fivestage.watch import Health


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
        self._runner: web.AppRunner | None = None

    async def start(self) -> int:
        """Listen; returns the port.

        Raises:
            ConfigurationError: the address cannot be listened on.
        """
        app = web.Application(client_max_size=1024)
        app.router.add_get("/livez", lambda _: self._probe(self._live))
        app.router.add_get("/readyz", lambda _: self._probe(self._ready))
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
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

    async def _probe(self, check: Callable[[], Health]) -> web.Response:
        health = check()
        return web.Response(status=200 if health.ok else 503, text=health.reason + "\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        """Rendered in a thread, one scrape at a time: it takes milliseconds, and queries come first."""
        async with self._rendering:
            accept = request.headers.get("Accept", "")
            body, content_type = await asyncio.to_thread(render, self._registry, accept)
        return web.Response(body=body, headers={"Content-Type": content_type})
