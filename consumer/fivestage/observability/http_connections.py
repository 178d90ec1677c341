"""Limits the connections of the HTTP server, so that the probes of an orchestrator are served before long.

The number of connections, their duration and their headers are limited. A stream of events may last, and does
not count: how many there may be is limited where they are served.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_CONNECTIONS: Final = 64
CONNECTION_S: Final = 10.0
"""How long a connection may stay open: request, response, and keep-alive together."""
MAX_LINE_BYTES: Final = 2048
MAX_HEADER_BYTES: Final = 16_384
"""Browsers send localhost the cookies of all that is served there, on any port."""
MAX_HEADERS: Final = 64


class LimitedServer(web.Server):
    """Handles each connection with a ``LimitedConnection``."""

    def __init__(self, handler: Any) -> None:
        super().__init__(
            handler,
            access_log=None,
            keepalive_timeout=CONNECTION_S,
            lingering_time=1.0,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
        )
        self.streams = 0
        """Connections that are exempt."""

    def __call__(self) -> web.RequestHandler:
        """Make the handler of a connection."""
        return LimitedConnection(self, loop=self._loop, **self._kwargs)


class LimitedConnection(web.RequestHandler):
    """A connection, limited in number and in time."""

    _expiry: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the time limit; abort if there are too many connections."""
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP
        server = self._manager
        streams = server.streams if isinstance(server, LimitedServer) else 0
        if server is not None and len(server.connections) - streams > MAX_CONNECTIONS:
            transport.abort()
        else:
            self.limit_time(transport)

    def limit_time(self, transport: asyncio.Transport) -> None:
        """End the connection after CONNECTION_S."""
        self._expiry = asyncio.get_running_loop().call_later(CONNECTION_S, transport.abort)

    def lift_time_limit(self) -> None:
        """Let the connection last."""
        if self._expiry is not None:
            self._expiry.cancel()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Cancel the time limit."""
        self.lift_time_limit()
        super().connection_lost(exc)


@contextlib.contextmanager
def exempt(request: web.BaseRequest) -> Iterator[None]:
    """Let the connection of a request last within a ``with`` block, and not count."""
    connection, transport = request.protocol, request.transport
    server = connection._manager  # noqa: SLF001 - as in LimitedConnection
    if not isinstance(connection, LimitedConnection) or not isinstance(server, LimitedServer):
        yield
        return
    connection.lift_time_limit()
    server.streams += 1
    try:
        yield
    finally:
        server.streams -= 1
        if isinstance(transport, asyncio.Transport) and not transport.is_closing():
            connection.limit_time(transport)
