"""Nodes whose code never ends, and one that answers: ``fivestage run support.stuck_app:app``.

Imported by services only: they wait less than usual for code to return.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from fivestage import Pipeline
from fivestage.service import health

if TYPE_CHECKING:
    from fivestage import Query, StageContext

STUCK_NODES = ("stuck-1", "stuck-2")
RUN_ON_S = 2.0

health.RUN_ON_S = RUN_ON_S
app = Pipeline(builtins=False)


@app.decision
async def _decide(query: Query, _ctx: StageContext) -> str:
    return query.user_input


def _block(_query: Query, _ctx: StageContext) -> None:
    threading.Event().wait()


for _name in STUCK_NODES:
    app.node(_name)(_block)


@app.node("leaves")
async def _leaves(_query: Query, _ctx: StageContext) -> str:
    """Start a background task that blocks the loop."""
    asyncio.get_running_loop().call_soon(_poll)
    return "left"


def _poll() -> None:
    threading.Event().wait()


@app.node("spins")
def _spin(_query: Query, _ctx: StageContext) -> None:
    """Use CPU."""
    while True:
        pass


@app.node("fast")
async def _fast(_query: Query, _ctx: StageContext) -> str:
    return "fast"
