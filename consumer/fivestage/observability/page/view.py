"""Serves the page, its files, and the blocks that change."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import orjson
from aiohttp import web

from fivestage.observability.page.assets import ASSETS
from fivestage.observability.page.document import Page, fill

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fivestage.observability.http_server import Handler, Routes
    from fivestage.observability.page.assets import Asset
    from fivestage.observability.status.document import Sections

RENDER_S: Final = 1.0
"""The least time between two renderings, which all readers share. Faster changes cannot be read."""


class PageView:
    """Renders the status document, in a thread.

    Args:
        latest: Returns the document's sections.
    """

    def __init__(self, latest: Callable[[], Awaitable[Sections]]) -> None:
        self._latest = latest
        self._page = Page()
        self._lock = asyncio.Lock()
        self._blocks: dict[str, str] = {}
        self._encoded: Sections = {}
        self._made_at = -RENDER_S

    async def blocks(self) -> Sections:
        """Return the HTML of each block, as JSON, by its id."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if now - self._made_at >= RENDER_S or not self._blocks:
                await asyncio.to_thread(self._render, await self._latest())
                self._made_at = now
            return self._encoded

    def _render(self, sections: Sections) -> None:
        status: Any = {name: orjson.loads(value) for name, value in sections.items()}
        self._blocks = self._page.blocks(status)
        self._encoded = {name: orjson.dumps(html) for name, html in self._blocks.items()}

    async def page(self, _: web.BaseRequest) -> web.StreamResponse:
        """Return the page with the figures of now."""
        await self.blocks()
        return web.Response(text=fill(self._blocks), content_type="text/html")


def page_routes(view: PageView) -> Routes:
    """Return the routes of the page and of its files."""
    return {"/": view.page, **{path: _file(asset) for path, asset in ASSETS.items()}}


def _file(asset: Asset) -> Handler:
    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=asset.body, content_type=asset.content_type, charset="utf-8")

    return answer
