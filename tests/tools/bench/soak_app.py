"""A pipeline for the soak: most queries succeed, and each way to fail has its share.

The process logs its number of asynchronous tasks, which is invisible from outside.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
import time
from typing import Any

from fivestage import Pipeline, Query, StageContext

TELL_S = 5.0
WORK_S = 0.002
TOO_LONG_S = 0.4

app = Pipeline(builtins=False)


@app.intent
async def intent(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """The first word."""
    return {"intent": query.user_input.partition(" ")[0], "confidence": 1.0}


@app.decision
async def decision(query: Query, _ctx: StageContext) -> str:
    """The node of that name."""
    return query.user_input.partition(" ")[0]


@app.node("good-async")
async def good_async(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Work on the loop."""
    await asyncio.sleep(WORK_S)
    return {"answer": query.query_id, "confidence": 1.0}


@app.node("good-def")
def good_def(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Work in a thread."""
    time.sleep(WORK_S)
    return {"answer": query.query_id, "confidence": 1.0}


@app.node("late-async")
async def late_async(_query: Query, _ctx: StageContext) -> None:
    """Take too long, and end when cancelled."""
    await asyncio.sleep(TOO_LONG_S)


@app.node("late-def")
def late_def(_query: Query, _ctx: StageContext) -> None:
    """Take too long, in a thread that cannot be stopped."""
    time.sleep(TOO_LONG_S)


@app.node("raises")
async def raises(query: Query, _ctx: StageContext) -> None:
    """Fail, with a message of its own."""
    raise ValueError(query.query_id)


@app.node("no-json")
async def no_json(_query: Query, _ctx: StageContext) -> Any:
    """Return a value without JSON."""
    return {"answer": threading.Lock()}


@app.validation
async def validation(_query: Query, _ctx: StageContext) -> bool:
    """Always right."""
    return True


@app.reflection
async def reflection(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Nothing to say."""
    return {"verdict": "confirmed"}


def _tell() -> None:
    while True:
        time.sleep(TELL_S)
        objects = gc.get_objects()
        tasks = sum(1 for one in objects if isinstance(one, asyncio.Task) and not one.done())
        print(json.dumps({"event": "soak", "tasks": tasks, "objects": len(objects)}), file=sys.stderr)
        del objects


threading.Thread(target=_tell, daemon=True).start()
