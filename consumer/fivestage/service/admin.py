"""The HTTP endpoints of a service: probes, metrics, and the status document."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from fivestage.observability.event_log import event_log
from fivestage.observability.http_access import PageAccess, guard
from fivestage.observability.http_server import AdminServer, metrics_routes, probe_routes
from fivestage.observability.log_line import described
from fivestage.observability.page.view import PageView, page_routes
from fivestage.observability.status.document import StatusDocument
from fivestage.observability.status.feed import EventFeed
from fivestage.observability.status.routes import status_routes

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from fivestage.observability.settings import AdminSettings
    from fivestage.observability.status.readings import Readings

log = structlog.get_logger("fivestage.service.admin")


class Admin:
    """Serves the probes, the metrics, and to whom may see them the routes of the page.

    Args:
        settings: Where to listen, and who may read the page.
        readings: The parts of the service.
        registry: The metrics.
    """

    def __init__(self, settings: AdminSettings, readings: Readings, *, registry: CollectorRegistry) -> None:
        self._document = StatusDocument(readings, event_log)
        self._feed = EventFeed(self._document)
        self._slots: asyncio.Task[None] | None = None
        view = PageView(self._feed.latest)
        self._feed.add_view("page", view.blocks)
        access = PageAccess(settings.host, settings.allowed_hosts)
        routes = {
            **probe_routes(live=readings.health.live, ready=readings.ready),
            **guard(metrics_routes(registry), access.metrics_refusal),
            **guard({**status_routes(self._feed), **page_routes(view)}, access.refusal),
        }
        self._server = AdminServer(host=settings.host, port=settings.port, routes=routes)

    async def start(self) -> int:
        """Start listening and return the port.

        Raises:
            ConfigurationError: the host and port cannot be used.
        """
        port = await self._server.start()
        self._slots = asyncio.create_task(self._document.run(), name="status")
        self._slots.add_done_callback(_log_failure)
        return port

    async def stop(self) -> None:
        """End the event streams, and stop listening."""
        self._feed.close()
        if self._slots is not None:
            self._slots.cancel()
        await self._server.stop()


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("the figures of the status page stopped", **described(error))
