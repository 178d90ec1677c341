"""The nodes of ``support.apps`` and a few for faults: ``fivestage run support.pipelines:app``."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.apps import load as app

if TYPE_CHECKING:
    from fivestage import Query, StageContext


HELD = "TEST_HELD"
"""The variable with the path of a file, into which the only query that holds the process writes its id."""
SUSPENDED_S = 0.5
"""A sleep of 10 ms that takes longer means that the process was suspended."""


@app.node("holds")
async def _holds(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Hold the interpreter lock for some seconds, once: no Python code of this process runs meanwhile."""
    if _is_first(query):
        ctypes.PyDLL(None).sleep(int(query.user_input.split()[1]))
    return {"answer": "late"}


@app.node("suspends")
async def _suspends(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Suspend this process, once; the test lets it continue."""
    if _is_first(query):
        os.kill(os.getpid(), signal.SIGSTOP)
        _sleep_until_suspended()  # another thread may take the signal, and needs a core for that
    return {"answer": "late"}


def _is_first(query: Query) -> bool:
    """Write the query's id into a new file; return false if it exists: a query held the process before."""
    try:
        with Path(os.environ[HELD]).open("x") as held:
            held.write(query.query_id)
    except FileExistsError:
        return False
    return True


def _sleep_until_suspended() -> None:
    """Return once a pause was much longer than asked for."""
    took_s = 0.0
    while took_s < SUSPENDED_S:
        began = time.monotonic()
        time.sleep(0.01)
        took_s = time.monotonic() - began


@app.node("grips")
async def _grips(query: Query, _ctx: StageContext) -> None:
    """Hold the interpreter lock for some seconds at every call."""
    ctypes.PyDLL(None).sleep(int(query.user_input.split()[1]))


@app.node("naps")
async def _naps(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Sleep for some seconds."""
    await asyncio.sleep(float(query.user_input.split()[1]))
    return {"answer": "awake"}


@app.node("hogs")
async def _hogs(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Block the event loop for a moment."""
    time.sleep(0.2)  # noqa: ASYNC251 - the point of this node
    return {"answer": "done"}


@app.node("stuck")
def _stuck(_query: Query, _ctx: StageContext) -> None:
    """Wait where no interruption arrives."""
    lock = threading.Lock()
    with lock:
        lock.acquire()
