"""``fivestage run support.logging_app:app``: nodes that log, fail, block, and warn; the log is under test."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

import structlog

from fivestage import Pipeline

if TYPE_CHECKING:
    from fivestage import Query, StageContext

log = logging.getLogger("logging_app")
warnings.warn("an old function", FutureWarning, stacklevel=1)
log.warning("imported")
logging.basicConfig(format="mine %(message)s", force=True)  # as libraries do on import
app = Pipeline(builtins=False)
BLOCKED_S = 0.3


@app.intent
async def intent(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Choose the node by the first word."""
    return {"intent": query.user_input.partition(" ")[0], "confidence": 1.0}


@app.decision
async def decision(_query: Query, ctx: StageContext) -> str:
    """Choose it."""
    return str(next(iter(ctx.results.values()))["intent"])


@app.node("talks")
async def talks(_query: Query, ctx: StageContext) -> Any:
    """Log in each way there is."""
    log.info("plain %d", 1, extra={"hits": 3, "level": "mine"})
    structlog.get_logger().info("bound", hits=2**70)
    log.info("%d", "not a number")
    try:
        _look_up()
    except LookupError:
        log.exception("caught")
    await asyncio.to_thread(log.info, "to_thread")
    await ctx.run_sync(log.info, "run_sync")
    await asyncio.create_task(_in_a_task())
    thread = threading.Thread(target=_look_up)
    thread.start()
    thread.join()
    return "talked"


@app.node("talks-in-a-thread")
def talks_look_up(_query: Query, _ctx: StageContext) -> str:
    """Log in a `def` node."""
    log.info("def node\x1b[2J")
    return "talked"


@app.node("fails")
async def fails(_query: Query, _ctx: StageContext) -> None:
    """Raise with the question in the message."""
    raise LookupError("the question")


@app.node("blocks")
async def blocks(_query: Query, _ctx: StageContext) -> str:
    """Block the event loop."""
    time.sleep(BLOCKED_S)  # noqa: ASYNC251 - the point of this node
    return "late"


@app.validation
async def validation(_query: Query, _ctx: StageContext) -> bool:
    """Log in another stage."""
    log.info("validates")
    return True


@app.reflection
async def reflection(_query: Query, _ctx: StageContext) -> None:
    """Do nothing."""


async def _in_a_task() -> None:
    log.warning("task")


def _look_up() -> None:
    raise LookupError("the question")
