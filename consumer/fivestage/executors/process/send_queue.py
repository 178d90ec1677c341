"""Sends bytes to a worker process without waiting for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    import socket


class SendQueue:
    """Writes into a socket, with one system call for all of a round of the loop.

    Keeps what is put until there is a socket, and what a full one does not take.

    Args:
        loop: The loop that it is used on.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._socket: socket.socket | None = None
        self._unsent: list[bytes] = []
        self._flushing = False
        self.kept_bytes = 0
        """Bytes that were put before there was a socket."""

    def __repr__(self) -> str:
        return f"<SendQueue {len(self._unsent)} unsent>"

    def attach(self, connection: socket.socket) -> None:
        """Send through this socket, which does not block."""
        self._socket = connection
        if self._unsent:
            self._flush_soon()

    def put(self, data: bytes) -> None:
        """Send *data* in this round of the loop, or when there is a socket with room."""
        self._unsent.append(data)
        if self._socket is None:
            self.kept_bytes += len(data)
        elif not self._flushing:
            self._flush_soon()

    def close(self) -> None:
        """Send nothing any more. Must be called before the socket is closed."""
        self._unsent.clear()
        if self._socket is not None:
            self._loop.remove_writer(self._socket)
            self._socket = None

    def _flush_soon(self) -> None:
        self._flushing = True
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._socket is None:
            return
        data = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:  # the process has closed its end, as reading shows
            self._unsent.clear()
            return
        self._unsent = [data[sent:]] if sent < len(data) else []
        if self._unsent:
            self._flushing = True
            self._loop.add_writer(self._socket, self._on_writable)

    def _on_writable(self) -> None:
        assert self._socket is not None  # noqa: S101 - it has just become writable
        self._loop.remove_writer(self._socket)
        self._flush()
