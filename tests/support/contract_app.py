"""Code that every kind of executor must handle.

The first word of a query is the node, the rest its argument.

Gates and notes are in a directory: CONTRACT_APP_FOLDER's where worker processes import this module, which
makes ``app``.
"""

from __future__ import annotations

import asyncio
import os
import threading
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fivestage import Pipeline
from fivestage_schemas import StageType
from support.files import Gate, note

if TYPE_CHECKING:
    from fivestage import Query, StageContext

VARIABLE = "CONTRACT_APP_FOLDER"
GATE = "gate"
"""The gates of code that blocks, or ignores its cancellation."""
MEETING = "meeting"
"""The gate of the node ``meets``."""
TASKS = 100


class SpeechlessError(Exception):
    """Has no text, and raises in str()."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Unencodable:
    """Of a type that JSON lacks."""


ERRORS: dict[str, BaseException] = {
    "ValueError": ValueError("\udc80 is no text"),
    "SystemExit": SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "GeneratorExit": GeneratorExit(),
    "StopIteration": StopIteration(1),
    "StopAsyncIteration": StopAsyncIteration(),
    "CancelledError": asyncio.CancelledError(),
    "TimeoutError": TimeoutError("its own"),
    "RecursionError": RecursionError(),
    "MemoryError": MemoryError(),
    "BaseExceptionGroup": BaseExceptionGroup("both", [SystemExit(3), ValueError()]),
    "SpeechlessError": SpeechlessError(),
}


def nested(depth: int) -> list[Any]:
    """Return lists in lists."""
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


def circle() -> list[Any]:
    """Return a list that contains itself."""
    found: list[Any] = []
    found.append(found)
    return found


RESULTS: dict[str, Any] = {
    "nothing": None,
    "object": Unencodable(),
    "bytes": b"bytes",
    "generator": (number for number in range(3)),
    "infinite": float("inf"),
    "nan": float("nan"),
    "half": "\ud800",
    "circle": circle(),
    "deep": nested(5000),
    "set": {1},
    "decimal": Decimal("0.10"),
    "keys": {1: "one", None: "none"},
    "large": 2**70,
}


def make(folder: Path) -> Pipeline:
    """Build the app, with its files in *folder*."""
    app = Pipeline(builtins=False)

    @app.intent
    async def intent(query: Query, _ctx: StageContext) -> dict[str, Any]:
        return {"intent": query.user_input.partition(" ")[0], "confidence": 1.0}

    @app.decision
    async def decide(_query: Query, ctx: StageContext) -> str:
        return str(ctx.results[StageType.INTENT]["intent"])

    @app.validation
    async def validate(query: Query, _ctx: StageContext) -> bool:
        if query.user_input == "echo doubtful":
            note(folder, "validation waits")
            await asyncio.Event().wait()
        return True

    @app.reflection
    async def reflect(_query: Query, ctx: StageContext) -> dict[str, Any]:
        return {"validated": ctx.validated}

    _add_answers(app)
    _add_waiting(app, folder)
    _add_blocking(app, folder)
    _add_loop_enders(app, folder)
    return app


def _add_answers(app: Pipeline) -> None:
    @app.node("echo")
    async def echo(query: Query, _ctx: StageContext) -> dict[str, Any]:
        """Echo, also values that some JSON parsers cannot represent exactly."""
        numbers = [0.1, 2**70, -0.0]
        return {"answer": query.user_input, "confidence": 0.75, "context": query.context, "numbers": numbers}

    @app.node("where")
    async def where(_query: Query, _ctx: StageContext) -> list[int]:
        return [os.getpid(), threading.get_ident()]

    @app.node("where-def")
    def where_def(_query: Query, _ctx: StageContext) -> list[int]:
        return [os.getpid(), threading.get_ident()]

    @app.node("raises")
    async def raises(query: Query, _ctx: StageContext) -> None:
        raise ERRORS[_argument(query)]

    @app.node("raises-def")
    def raises_def(query: Query, _ctx: StageContext) -> None:
        raise ERRORS[_argument(query)]

    @app.node("returns")
    async def returns(query: Query, _ctx: StageContext) -> Any:
        return RESULTS[_argument(query)]


def _add_waiting(app: Pipeline, folder: Path) -> None:
    @app.node("naps")
    async def naps(_query: Query, ctx: StageContext) -> str:
        """Wait for ever in the first attempt."""
        note(folder, f"naps {ctx.attempt}")
        if ctx.attempt == 1:
            await asyncio.Event().wait()
        return "awake"

    @app.node("late", intents={"late"})
    async def late(_query: Query, _ctx: StageContext) -> None:
        """Wait for ever; the next node answers."""
        await asyncio.Event().wait()

    @app.node("prompt", intents={"late"})
    async def prompt(_query: Query, ctx: StageContext) -> int:
        return ctx.attempt

    @app.node("waits")
    async def waits(query: Query, _ctx: StageContext) -> None:
        """Wait for ever; when cancelled use several loop turns to clean up."""
        note(folder, f"waits {_argument(query)}".strip())
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(20):
                await asyncio.sleep(0)
            note(folder, "cleaned up")

    @app.node("meets")
    async def meets(_query: Query, _ctx: StageContext) -> str:
        note(folder, "meets")
        while not (folder / MEETING).exists():
            await asyncio.sleep(0.005)
        return "met"


def _add_blocking(app: Pipeline, folder: Path) -> None:
    gate = Gate(folder, GATE)

    @app.node("ignores")
    async def ignores(_query: Query, _ctx: StageContext) -> str:
        """Ignore every cancellation until the gate is open."""
        note(folder, "ignores")
        while gate.is_closed():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:  # the point of this node
                continue
        return "came back"

    @app.node("blocks")
    async def blocks(_query: Query, _ctx: StageContext) -> str:
        """Block the event loop."""
        note(folder, "blocks")
        gate.wait()
        return "came back"

    @app.node("blocks-def")
    def blocks_def(_query: Query, _ctx: StageContext) -> str:
        """Block a thread."""
        note(folder, "blocks-def")
        gate.wait()
        return "came back"


def _add_loop_enders(app: Pipeline, folder: Path) -> None:
    left: list[asyncio.Task[object]] = []

    @app.node("ends-loop")
    async def ends_loop(query: Query, _ctx: StageContext) -> str:
        """Stop the loop, or raise in a task an exception that ends it."""

        async def leave() -> None:
            raise ERRORS[_argument(query)]

        if _argument(query) == "stop":
            asyncio.get_running_loop().stop()
        else:
            await asyncio.gather(leave())
        return "stopped"

    @app.node("leaves-tasks")
    async def leaves_tasks(_query: Query, _ctx: StageContext) -> str:
        """Leave tasks behind that never end."""

        async def never() -> None:
            await asyncio.Event().wait()

        left.extend(asyncio.create_task(never()) for _ in range(TASKS))
        note(folder, "left tasks")
        return "left"


def _argument(query: Query) -> str:
    return query.user_input.partition(" ")[2]


app = make(Path(os.environ.get(VARIABLE, "no-such-folder")))
