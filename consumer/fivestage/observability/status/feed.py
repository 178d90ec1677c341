"""Server-sent events: the whole status document, then what changes of it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from aiohttp import web

from fivestage.observability.http_access import PAGE_HEADERS
from fivestage.observability.http_connections import exempt
from fivestage.observability.status.document import as_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fivestage.observability.status.document import Sections, StatusDocument

    Latest = Callable[[], Awaitable[Sections]]

MAX_STREAMS: Final = 8
UPDATE_S: Final = 0.25
"""The least time between two updates."""
HEARTBEAT_S: Final = 10.0
"""A stream without updates gets a comment so often, so that proxies and clients do not give it up."""
WRITE_S: Final = 5.0
"""A reader that does not take an update for so long is dropped."""
RETRY_MS: Final = 2000
"""After how long a client that lost its stream connects again."""
HEADERS: Final = {
    **PAGE_HEADERS,
    "Content-Type": "text/event-stream; charset=utf-8",
    "X-Accel-Buffering": "no",
}


class EventFeed:
    """The streams of ``/api/events``. While there is none, nothing is computed.

    Args:
        document: Makes the status document; all streams share what it made last.
    """

    def __init__(self, document: StatusDocument) -> None:
        self._document = document
        self._latest: Sections = {}
        self._made_at = -UPDATE_S
        self._closing = asyncio.Event()
        self._views: dict[str | None, Latest] = {None: self.latest}
        self.streams = 0
        """How many are open."""

    def __repr__(self) -> str:
        return f"<EventFeed {self.streams} streams>"

    def add_view(self, name: str, latest: Latest) -> None:
        """Serve with ``?view=name`` what *latest* returns instead of the document."""
        self._views[name] = latest

    def close(self) -> None:
        """End all streams now, and take no new ones."""
        self._closing.set()

    async def latest(self) -> Sections:
        """Return the document, which is made at most once within UPDATE_S."""
        now = asyncio.get_running_loop().time()
        if now - self._made_at >= UPDATE_S or not self._latest:
            self._made_at = now
            self._latest = await self._document.sections()
        return self._latest

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Stream events until the client goes, is too slow, or the service ends."""
        latest = self._views.get(request.query.get("view"))
        if latest is None:
            return web.Response(status=404, text="There is no such view\n")
        if self._closing.is_set():
            return _refused("the service ends, so it serves no more event streams")
        if self.streams >= MAX_STREAMS:
            text = f"{MAX_STREAMS} event streams are open, no more are served; /api/status still answers"
            return _refused(text)
        response = web.StreamResponse(headers=HEADERS)
        self.streams += 1
        try:
            with exempt(request):
                await response.prepare(request)
                if request.method == "GET":
                    await self._stream(response, request.transport, latest)
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()
        finally:
            self.streams -= 1
        return response

    async def _stream(
        self, response: web.StreamResponse, transport: asyncio.Transport | None, latest: Latest
    ) -> None:
        """Write events; a reader that has not taken the last one gets no other, and then all changes."""
        clock = asyncio.get_running_loop().time
        stream, written_at = _Stream(clock()), clock()
        while not self._closing.is_set() and transport is not None and not transport.is_closing():
            if not transport.get_write_buffer_size():
                written_at = clock()
                if chunk := stream.next_chunk(await latest(), written_at):
                    async with asyncio.timeout(WRITE_S):
                        await response.write(chunk)
            elif clock() - written_at > WRITE_S:
                raise TimeoutError
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(UPDATE_S):
                    await self._closing.wait()


def _refused(text: str) -> web.Response:
    return web.Response(status=503, text=f"{text}\n", headers={"Retry-After": "5"})


class _Stream:
    """What one stream has sent."""

    def __init__(self, now: float) -> None:
        self._sent: Sections = {}
        self._number = 0
        self._spoke_at = now

    def next_chunk(self, latest: Sections, now: float) -> bytes:
        """Return the event with what has changed, a heartbeat if one is due, or nothing."""
        changed = {name: value for name, value in latest.items() if self._sent.get(name) != value}
        if changed.keys() - {"at"}:
            start = b"event: update" if self._sent else b"retry: %d\nevent: status" % RETRY_MS
            self._sent, self._spoke_at, self._number = latest, now, self._number + 1
            return b"%b\nid: %d\ndata: %b\n\n" % (start, self._number, as_json(changed))
        if now - self._spoke_at < HEARTBEAT_S:
            return b""
        self._spoke_at = now
        return b": heartbeat\n\n"
