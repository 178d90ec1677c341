"""Hostile nodes, and ordinary ones that are slow now and then.

The question's first word is the node; a second one, "slow", makes the call slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import logging
import math
import os
import re
import socket
import threading
import time
from queue import SimpleQueue
from typing import Any
from weakref import WeakKeyDictionary

from fivestage import Pipeline, Query, StageContext

WORK_S = 0.005
BLOCK_S = 5.0
LARGE_BYTES = 50_000_000
LEAKED_TASKS = 100
CLIENT_S = 0.05
CONNECTIONS = 4
REPLY_S = 0.4
LOG_S = 0.5
OFFLOADED_S = 0.02

app = Pipeline(builtins=False)
_leaked: list[asyncio.Task[Any]] = []
_never = threading.Event()
_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, object] = WeakKeyDictionary()


class Hostile(BaseException):
    """An exception that no handler expects."""


@app.intent
async def intent(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """The first word."""
    return {"intent": query.user_input.partition(" ")[0], "confidence": 1.0}


@app.decision
async def decision(query: Query, _ctx: StageContext) -> str:
    """The node of that name."""
    return query.user_input.partition(" ")[0]


@app.validation
async def validation(_query: Query, _ctx: StageContext) -> bool:
    """Always right."""
    return True


@app.reflection
async def reflection(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Nothing to say."""
    return {"verdict": "confirmed"}


@app.node("good-async")
async def good_async(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Normal traffic on the loop."""
    await asyncio.sleep(WORK_S)
    return {"answer": query.query_id, "confidence": 1.0}


@app.node("good-def")
def good_def(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Normal traffic in a thread."""
    time.sleep(WORK_S)
    return {"answer": query.query_id, "confidence": 1.0}


@app.node("deaf")
async def deaf(_query: Query, _ctx: StageContext) -> None:
    """Swallow every cancellation."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue


@app.node("spin-async")
async def spin_async(_query: Query, _ctx: StageContext) -> None:
    """Compute for ever on the loop."""
    while True:
        pass


@app.node("spin-def")
def spin_def(_query: Query, _ctx: StageContext) -> None:
    """Compute for ever in a thread."""
    while True:
        pass


@app.node("block-async")
async def block_async(_query: Query, _ctx: StageContext) -> None:
    """Block the loop."""
    time.sleep(BLOCK_S)  # noqa: ASYNC251 - the point of this node


@app.node("hold-gil")
async def hold_gil(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Keep the interpreter lock in one long C call: a regular expression that backtracks without end."""
    return {"answer": _backtrack(_size_for(BLOCK_S)), "confidence": 1.0}


def _backtrack(size: int) -> bool:
    return re.match(r"(?:a|a)*$", "a" * size + "b") is not None


def _size_for(wanted_s: float) -> int:
    """Return the number of letters that takes this long here: each doubles the time."""
    size, took_s = 12, 0.0
    while took_s < 0.02:
        size += 1
        started = time.perf_counter()
        _backtrack(size)
        took_s = time.perf_counter() - started
    return size + round(math.log2(wanted_s / took_s))


@app.node("never")
def never(_query: Query, _ctx: StageContext) -> None:
    """Wait for ever in a thread."""
    _never.wait()


@app.node("base-exception")
async def base_exception(_query: Query, _ctx: StageContext) -> None:
    """Raise a BaseException."""
    raise Hostile


@app.node("system-exit")
async def system_exit(_query: Query, _ctx: StageContext) -> None:
    """Ask Python to end."""
    raise SystemExit(3)


@app.node("no-json")
async def no_json(_query: Query, _ctx: StageContext) -> Any:
    """Return what is no JSON."""
    return {"answer": threading.Lock()}


@app.node("large")
async def large(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Answer with 50 MB."""
    return {"answer": "x" * LARGE_BYTES, "confidence": 1.0}


@app.node("fork")
async def fork(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Go on in two processes as if nothing had happened."""
    os.fork()
    return {"answer": query.query_id, "confidence": 1.0}


@app.node("leak")
async def leak(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Leave tasks behind that never end."""
    _leaked.extend(asyncio.create_task(asyncio.Event().wait()) for _ in range(LEAKED_TASKS))
    return {"answer": query.query_id, "confidence": 1.0}


# Ordinary nodes


@app.node("lazy-import")
def lazy_import(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Import what is needed on first use."""
    return {"answer": importlib.import_module("slow_import").same(query.query_id), "confidence": 1.0}


@app.node("client-per-loop")
async def client_per_loop(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Make a client on first use in each event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        time.sleep(CLIENT_S)  # noqa: ASYNC251 - as creating one does
        _clients[loop] = object()
    await asyncio.sleep(WORK_S)
    return {"answer": query.query_id, "confidence": 1.0}


@app.node("pooled")
def pooled(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Ask the server for rows; the answer is the name that stands in all of them."""
    pool = _pool()
    connection = pool.get()
    try:
        connection.sendall(f"{query.query_id} {query.user_input}\n".encode())
        rows = [_line(connection) for _ in range(2)]
    finally:
        pool.put(connection)
    return {"answer": " ".join(sorted(set(rows))), "confidence": 1.0}


@functools.cache
def _pool() -> SimpleQueue[socket.socket]:
    """Connections to a server in this process."""
    pool: SimpleQueue[socket.socket] = SimpleQueue()
    for _ in range(CONNECTIONS):
        near, far = socket.socketpair()
        threading.Thread(target=_serve, args=(far,), daemon=True).start()
        pool.put(near)
    return pool


def _serve(connection: socket.socket) -> None:
    """Answer each line with two rows of its first word."""
    with connection, contextlib.suppress(OSError):  # the other end is gone
        while line := _line(connection):
            if line.endswith(" slow"):
                time.sleep(REPLY_S)
            name = line.split()[0]
            connection.sendall(f"{name}\n{name}\n".encode())


def _line(connection: socket.socket) -> str:
    """The next line; empty at the end."""
    found = b""
    while not found.endswith(b"\n") and (byte := connection.recv(1)):
        found += byte
    return found.decode().strip()


class _SlowHandler(logging.Handler):
    """Takes long for some lines, as one that writes to a full disk or over a network does."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg.endswith(" slow"):
            time.sleep(LOG_S)


_log = logging.getLogger("hostile_app")
_log.propagate = False
_log.setLevel(logging.INFO)
_log.addHandler(_SlowHandler())


@app.node("slow-log")
def slow_log(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Log."""
    _log.info(query.user_input)
    return {"answer": query.query_id, "confidence": 1.0}


@app.node("to-thread")
async def to_thread(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Leave the work to a thread."""
    await asyncio.to_thread(time.sleep, OFFLOADED_S)
    return {"answer": query.query_id, "confidence": 1.0}
