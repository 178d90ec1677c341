"""Ordinary nodes of good engineers; a test decides when the things they wait for arrive.

The first word of a query is the node, the second its argument. Gates and notes are in a directory:
ORDINARY_APP_FOLDER's where worker processes import this module, which makes ``app``.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib
import logging
import os
import queue
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from fivestage import Pipeline
from support.files import Gate, note

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fivestage import Query, StageContext

VARIABLE = "ORDINARY_APP_FOLDER"
SLOW = "slow"
"""The argument that makes a node, or its request, wait at the gate of this name."""
BLOCKS_HERE = "# the line that blocks"
FOREVER_S = 3600.0


class RowServer:
    """Answers each line with two rows and an empty line; those for SLOW come when the gate is open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def connect(self) -> socket.socket:
        """Connect."""
        near, far = socket.socketpair()
        threading.Thread(target=self._serve, args=(far,), daemon=True).start()
        return near

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rw") as lines:
            for line in lines:
                name = line.strip()
                note(self._folder, f"asked for {name}")
                if name == SLOW:
                    Gate(self._folder, SLOW).wait()
                lines.write(f"{name}-1\n{name}-2\n\n")
                lines.flush()


class Pool:
    """One connection, for one caller at a time."""

    def __init__(self, server: RowServer) -> None:
        self._connections: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        self._connections.put(server.connect())

    def fetch(self, name: str) -> list[str]:
        """Send a request, and read up to the empty line."""
        connection = self._connections.get()
        try:
            connection.sendall(f"{name}\n".encode())
            rows = []
            while row := _read_line(connection):
                rows.append(row)
            return rows
        finally:
            self._connections.put(connection)

    def close(self) -> None:
        """Close the unused connection."""
        self._connections.get().close()


def _read_line(connection: socket.socket) -> str:
    line = b""
    while not line.endswith(b"\n"):
        line += connection.recv(1)
    return line.decode().strip()


class AsyncPool:
    """One connection, which a caller that does not get all of its rows closes."""

    def __init__(self, folder: Path, server: RowServer) -> None:
        self._folder = folder
        self._server = server
        self._free = asyncio.Lock()
        self._idle: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Return the connection, or a new one."""
        async with self._free:
            if self._idle is None:
                self._idle = await asyncio.open_connection(sock=self._server.connect())
            reader, writer = self._idle
            try:
                yield reader, writer
            except BaseException:
                self._idle = None
                writer.close()
                await writer.wait_closed()
                note(self._folder, "closed a connection")
                raise

    async def fetch(self, name: str) -> list[str]:
        """Send a request, and read up to the empty line."""
        async with self.connection() as (reader, writer):
            writer.write(f"{name}\n".encode())
            await writer.drain()
            rows = []
            while row := (await reader.readline()).decode().strip():
                rows.append(row)
            return rows

    async def close(self) -> None:
        """Close the unused connection."""
        if self._idle is not None:
            _, writer = self._idle
            writer.close()
            await writer.wait_closed()


class GatedHandler(logging.Handler):
    """A log handler that is slow for one message: a network, a full disk, a rotation."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message to the notes."""
        note(self._folder, f"logs {record.getMessage()}")
        if record.getMessage() == SLOW:
            Gate(self._folder, SLOW).wait()


def make(folder: Path) -> Pipeline:
    """Build the app, with its files in *folder*."""
    app = Pipeline(builtins=False)
    gate = Gate(folder, SLOW)

    @app.decision
    async def decide(query: Query, _ctx: StageContext) -> str:
        return query.user_input.partition(" ")[0]

    _add_connections(app, folder)
    _add_clean_up(app, folder)
    _add_libraries(app, folder)
    _add_blocking(app, folder, gate)
    _add_waiting(app, folder, gate)
    return app


def _argument(query: Query) -> str:
    return query.user_input.partition(" ")[2]


def _add_connections(app: Pipeline, folder: Path) -> None:
    server = RowServer(folder)
    pools: list[Pool] = []
    async_pools: dict[object, AsyncPool] = {}
    lock = threading.Lock()

    def pool() -> Pool:
        with lock:
            if not pools:
                pools.append(Pool(server))
            return pools[0]

    @app.node("rows")
    def rows(query: Query, _ctx: StageContext) -> list[str]:
        return pool().fetch(_argument(query))

    @app.node("async-rows")
    async def async_rows(query: Query, _ctx: StageContext) -> list[str]:
        loop = asyncio.get_running_loop()
        if loop not in async_pools:
            async_pools[loop] = AsyncPool(folder, server)
        return await async_pools[loop].fetch(_argument(query))

    @app.node("hangs-up")
    async def hangs_up(_query: Query, _ctx: StageContext) -> str:
        """Close the connections of its loop, and those of its process."""
        for one in pools:
            one.close()
        for other in async_pools.values():
            await other.close()
        return "closed"


def _add_clean_up(app: Pipeline, folder: Path) -> None:
    @app.node("cleans-up")
    async def cleans_up(_query: Query, _ctx: StageContext) -> None:
        """Wait; when cancelled close a connection after further awaits."""
        _, writer = await asyncio.open_connection(sock=RowServer(folder).connect())
        note(folder, "waits")
        try:
            await asyncio.sleep(FOREVER_S)
        finally:
            writer.close()
            await writer.wait_closed()
            for _ in range(20):
                await asyncio.sleep(0)
            note(folder, "cleaned up")


def _add_libraries(app: Pipeline, folder: Path) -> None:
    log = logging.Logger("ordinary")  # noqa: LOG001 - of no tree, so that it ends with the app
    handler = GatedHandler(folder)
    log.addHandler(handler)

    @app.node("imports")
    def imports(query: Query, _ctx: StageContext) -> str:
        note(folder, "wants it")
        return str(importlib.import_module(_argument(query)).ANSWER)

    @app.node("logs")
    def logs(query: Query, _ctx: StageContext) -> str:
        note(folder, "wants to log")
        log.info(_argument(query))
        return "logged"

    @app.node("locks")
    def locks(query: Query, _ctx: StageContext) -> bool:
        """Return whether the handler's lock and logging's global lock are free."""
        logging.getLogger(f"new.{query.query_id}.{id(query)}")
        assert handler.lock is not None
        if free := handler.lock.acquire(blocking=False):
            handler.lock.release()
        return free


def _block(gate: Gate) -> None:
    """Wait at the gate, in a line of this file."""
    with gate.path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # the line that blocks


def _add_blocking(app: Pipeline, folder: Path, gate: Gate) -> None:
    @app.node("to-thread")
    async def to_thread(query: Query, _ctx: StageContext) -> str:
        def call() -> str:
            note(folder, f"calls {_argument(query)}")
            if _argument(query) == SLOW:
                gate.wait()
            return "called"

        return await asyncio.to_thread(call)

    @app.node("resolves")
    async def resolves(_query: Query, _ctx: StageContext) -> bool:
        return bool(await asyncio.get_running_loop().getaddrinfo("localhost", 80))

    @app.node("database")
    def database(query: Query, _ctx: StageContext) -> str:
        note(folder, f"asks {_argument(query)}")
        if _argument(query) == SLOW:
            gate.wait()
        return "row"

    @app.node("blocks")
    async def blocks(_query: Query, _ctx: StageContext) -> str:
        _block(gate)
        return "turns again"

    @app.node("leaves")
    async def leaves(_query: Query, _ctx: StageContext) -> str:
        """Leave a callback on the loop that blocks it."""
        asyncio.get_running_loop().call_soon(_block, gate)
        return "left"


def _add_waiting(app: Pipeline, folder: Path, gate: Gate) -> None:
    clients: dict[object, object] = {}

    @app.node("waits")
    async def waits(query: Query, _ctx: StageContext) -> str:
        note(folder, "waits")
        while not (folder / _argument(query)).exists():
            await asyncio.sleep(0.005)
        return "waited"

    @app.node("pays")
    def pays(query: Query, _ctx: StageContext) -> str:
        note(folder, "pays")
        Gate(folder, _argument(query)).wait()
        note(folder, "has paid")
        return "paid"

    @app.node("uses-client")
    async def uses_client(query: Query, _ctx: StageContext) -> str:
        """Use a client that belongs to the loop, and takes a while to create."""
        note(folder, f"answers {_argument(query)}")
        loop = asyncio.get_running_loop()
        if loop not in clients:
            gate.wait()
            clients[loop] = object()
        await asyncio.sleep(0)
        return _argument(query)


app = make(Path(os.environ.get(VARIABLE, "no-such-folder")))
