"""Pipelines with one large quantity: answers, the number of nodes, or the work of one node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fivestage import Pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage import Query, StageContext

NODES = "nodes_"
ROUNDS = 20_000
"""Of a loop of pure Python: some tenths of a millisecond, up to a millisecond."""


def _stages(app: Pipeline) -> Pipeline:
    """Add empty stages; the decision is the built-in one, by intent."""

    @app.intent
    async def intent(query: Query, _ctx: StageContext) -> dict[str, Any]:
        return {"intent": query.user_input.partition(" ")[0], "confidence": 1.0}

    @app.validation
    async def validation(_query: Query, _ctx: StageContext) -> bool:
        return True

    @app.reflection
    async def reflection(_query: Query, _ctx: StageContext) -> dict[str, Any]:
        return {"verdict": "confirmed"}

    return app


def _with_node(call: Callable[..., Any]) -> Pipeline:
    app = _stages(Pipeline(builtins=False))
    app.node("only", intents={"general"})(call)
    return app


async def _answer(query: Query, _ctx: StageContext) -> dict[str, Any]:
    return {"answer": "x" * int(query.user_input), "confidence": 1.0}


async def _work(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    total = 0
    for number in range(ROUNDS):
        total += number
    return {"answer": total, "confidence": 1.0}


async def _echo(query: Query, _ctx: StageContext) -> dict[str, Any]:
    return {"answer": query.user_input, "confidence": 1.0}


def _many(count: int) -> Pipeline:
    """Build this many nodes, each for its own intent: the number in the query."""
    app = _stages(Pipeline(builtins=False))
    for number in range(count):
        app.node(f"node-{number}", intents={str(number)})(_echo)
    return app


answers = _with_node(_answer)
busy = _with_node(_work)


def __getattr__(name: str) -> Pipeline:
    """Create ``nodes_N`` on access: the measurement chooses N."""
    if not name.startswith(NODES):
        raise AttributeError(name)
    return _many(int(name.removeprefix(NODES)))
