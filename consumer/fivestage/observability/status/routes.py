"""The routes of the status document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from fivestage.observability.status.document import as_json

if TYPE_CHECKING:
    from fivestage.observability.http_server import Routes
    from fivestage.observability.status.feed import EventFeed


def status_routes(feed: EventFeed) -> Routes:
    """Return the routes ``/api/status`` and ``/api/events``."""

    async def status(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=as_json(await feed.latest()), content_type="application/json")

    return {"/api/status": status, "/api/events": feed.answer}
