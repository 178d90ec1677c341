"""The nodes of ``support.apps`` and a few that faults need: ``fivestage run support.pipelines:app``."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from typing import TYPE_CHECKING, Any

from support.apps import load as app

if TYPE_CHECKING:
    from fivestage import Query, StageContext


_held: set[str] = set()


@app.node("holds")
async def _holds(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Keeps the interpreter lock for so many seconds, once: no Python code of this process runs meanwhile."""
    if query.query_id not in _held:  # it will be read again
        _held.add(query.query_id)
        ctypes.PyDLL(None).sleep(int(query.user_input.split()[1]))
    return {"answer": "late"}


@app.node("grips")
async def _grips(query: Query, _ctx: StageContext) -> None:
    """Keeps the interpreter lock for so many seconds, whenever it is asked."""
    ctypes.PyDLL(None).sleep(int(query.user_input.split()[1]))


@app.node("naps")
async def _naps(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Takes so many seconds."""
    await asyncio.sleep(float(query.user_input.split()[1]))
    return {"answer": "awake"}


@app.node("stuck")
def _stuck(_query: Query, _ctx: StageContext) -> None:
    """Waits where no interruption reaches it."""
    lock = threading.Lock()
    with lock:
        lock.acquire()
