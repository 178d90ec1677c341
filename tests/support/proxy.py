"""A TCP proxy that misbehaves, in front of a real broker.

Clients connect to a broker's advertised address, so the broker must advertise the proxy's (``ADVERTISED`` of
``tests/kafka/broker.py``); then all its clients pass through here, those that feed and check as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    import ssl
    from collections.abc import Coroutine

T = TypeVar("T")
PRODUCE = 0
"""Kafka's api_key of a produce request."""


class Mode(enum.Enum):
    """The treatment of the bytes."""

    PASS = "pass"  # noqa: S105 - no password
    LATENCY = "they come ``delay_s`` later, both ways"
    BLACK_HOLE = "nothing is passed on, nothing is closed; connections of that time stay so for ever"
    GARBAGE = "the broker's answers are replaced by nonsense"
    DROP_RESPONSES = "requests arrive, their answers are lost; nothing is closed"
    DROP_REQUESTS = "requests are lost, answers to earlier ones arrive; nothing is closed"


class Proxy:
    """Listens on the loopback address from its creation on; runs in a thread.

    Args:
        target: ``host:port`` of the broker; may be set later.
        tls: Speaks TLS with clients, and plain text with the broker.
    """

    def __init__(self, target: str = "", *, tls: ssl.SSLContext | None = None) -> None:
        self.target = target
        self.delay_s = 0.2
        self.acks_to_lose = 0
        """This many produce responses are lost, each with its connection."""
        self.acks_lost = 0
        self.passed_on = 0
        """Bytes that clients have sent to the broker."""
        self.swallowed = 0
        """Connections that were made to a black hole."""
        self._mode = Mode.PASS
        self._closing = False
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda *_: None)  # failed handshakes are the point
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def mode(self) -> Mode:
        """Return the current mode."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._call(self._switch(mode))

    def reset(self) -> int:
        """Reset all connections; return how many there were."""
        return self._call(self._reset())

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _switch(self, mode: Mode) -> None:
        self._mode = mode
        for link in self._links:
            link.dead = link.dead or mode is Mode.BLACK_HOLE

    async def _reset(self) -> int:
        links = list(self._links)
        for link in links:
            link.reset()
        return len(links)

    async def _close(self) -> None:
        self._closing = True
        for listening in self._server.sockets:
            self._loop.remove_reader(listening.fileno())
        for _ in range(10):  # Python leaks a connection that it has just accepted when the server is closed
            await asyncio.sleep(0)
        self._server.close()
        await self._reset()
        ends_at = self._loop.time() + 5
        # Not only what is served: a connection may just be accepted.
        while (others := asyncio.all_tasks() - {asyncio.current_task()}) and self._loop.time() < ends_at:
            await asyncio.wait(others, timeout=0.5)
            await self._reset()
        await asyncio.sleep(0.05)  # transports close in callbacks that cannot be awaited

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(self, writer)
        self._links.add(link)
        try:
            if self._closing:  # accepted just before the server was closed
                return
            if self._mode is Mode.BLACK_HOLE:
                self.swallowed += 1
                link.dead = True
                await reader.read()
            else:
                await link.run(reader)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._links.discard(link)
            link.reset()


class _Link:
    """One client's connection, and the one to the broker."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter) -> None:
        self.dead = False
        self._gaps: set[Mode] = set()
        """The directions in which bytes were lost: later bytes would be out of place, and are dropped."""
        self._proxy = proxy
        self._client = client
        self._broker: asyncio.StreamWriter | None = None
        self._requests, self._responses = _Frames(), _Frames()
        self._doomed: int | None = None  # the number of the request whose response will be lost
        self._noise = random.Random(7)  # noqa: S311 - nonsense, repeatable

    async def run(self, reader: asyncio.StreamReader) -> None:
        host, _, port = self._proxy.target.rpartition(":")
        answers, self._broker = await asyncio.open_connection(host, int(port))
        pumps = [asyncio.ensure_future(self._up(reader)), asyncio.ensure_future(self._down(answers))]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.wait(pumps)

    async def _up(self, reader: asyncio.StreamReader) -> None:
        proxy = self._proxy
        while data := await reader.read(65536):
            if self._loses(Mode.DROP_REQUESTS) or self._broker is None:
                continue
            for kind in self._requests.feed(data):
                if kind == PRODUCE and self._doomed is None and proxy.acks_to_lose:
                    proxy.acks_to_lose -= 1
                    self._doomed = self._requests.count
            await self._delay()
            proxy.passed_on += len(data)
            self._broker.write(data)
            await self._broker.drain()

    async def _down(self, reader: asyncio.StreamReader) -> None:
        proxy = self._proxy
        while data := await reader.read(65536):
            if self._loses(Mode.DROP_RESPONSES):
                continue
            self._responses.feed(data)
            if self._doomed is not None and self._responses.count >= self._doomed:
                proxy.acks_lost += 1
                return
            await self._delay()
            self._client.write(data if proxy.mode is not Mode.GARBAGE else self._noise.randbytes(len(data)))
            await self._client.drain()

    def _loses(self, direction: Mode) -> bool:
        if self._proxy.mode is direction:
            self._gaps.add(direction)
        return self.dead or direction in self._gaps

    async def _delay(self) -> None:
        if self._proxy.mode is Mode.LATENCY:
            await asyncio.sleep(self._proxy.delay_s)

    def reset(self) -> None:
        for writer in (self._client, self._broker):
            if writer is not None:
                found = writer.get_extra_info("socket")
                with contextlib.suppress(OSError, AttributeError):  # closed already
                    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()


class _Frames:
    """Counts Kafka's frames in one direction: four bytes of length, then in requests two of api_key."""

    def __init__(self) -> None:
        self.count = 0
        self._head = b""
        self._left = 0

    def feed(self, data: bytes) -> list[int]:
        """Return the first two bytes of each frame that starts here."""
        kinds = []
        while data:
            skipped = min(self._left, len(data))
            self._left -= skipped
            data = data[skipped:]
            if self._left == 0 and data:
                wanted = 6 - len(self._head)
                self._head, data = self._head + data[:wanted], data[wanted:]
                if len(self._head) == 6:
                    size, kind = struct.unpack(">ih", self._head)
                    self.count += 1
                    self._left, self._head = max(0, size - 2), b""
                    kinds.append(kind)
        return kinds
