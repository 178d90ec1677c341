"""What stages return, as later stages see it: a copy, as in the event."""

from __future__ import annotations

import asyncio
import uuid
from decimal import Decimal
from enum import Enum, StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from fivestage import Orchestrator, Pipeline, Query
from fivestage.core.job import Job
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from fivestage import StageContext

ID = uuid.UUID(int=7)


class Colour(Enum):
    """An ordinary enum."""

    RED = "red"


class Kind(StrEnum):
    """An enum of texts."""

    OPEN = "open"


SEEN = [
    ((1, 2), [1, 2]),
    ({1: 0.9}, {"1": 0.9}),
    ({"ids": {ID: ID}}, {"ids": {str(ID): str(ID)}}),
    (Colour.RED, "red"),
    (Kind.OPEN, "open"),
    (float("nan"), None),
    ([float("inf")], [None]),
    (2**100, 2**100),
    ({"big": [2**70, (1,)]}, {"big": [2**70, [1]]}),
    (Decimal("0.10"), "0.10"),
    (0.1, 0.1),
    (True, True),
    (None, None),
    ("text", "text"),
]


def empty_app() -> Pipeline:
    """An app whose decision is the node ``main``."""
    app = Pipeline(builtins=False)

    @app.decision
    async def decide(_query: Query, _ctx: StageContext) -> str:
        return "main"

    return app


def app_of(answer: Any, seen: list[Any]) -> Pipeline:
    """An app that answers with a value, and keeps what reflection sees of it."""
    app = empty_app()

    @app.node("main")
    async def main(_query: Query, _ctx: StageContext) -> Any:
        return answer

    @app.reflection
    async def reflect(_query: Query, ctx: StageContext) -> None:
        seen.extend([ctx.answer, ctx.results["processing"]])

    return app


@pytest.mark.parametrize(("returned", "wanted"), SEEN, ids=repr)
async def test_later_stages_see_what_the_event_has(returned: Any, wanted: Any) -> None:
    """Types too: a tuple is a list, an id a text, a key a text, NaN null."""
    seen: list[Any] = []
    result = await Orchestrator(app_of(returned, seen)).process_query("x")
    assert result.answer == wanted
    for value in seen:
        assert (value, type(value)) == (wanted, type(wanted))


async def test_a_moved_query_sees_the_same() -> None:
    """Elsewhere the stages read the event's JSON; nothing may depend on whether a query was moved."""
    seen: list[Any] = []
    orchestrator = Orchestrator(app_of({1: (0.9, Colour.RED)}, seen))
    now = asyncio.get_running_loop().time()
    job = Job(Query("q", "x"), orchestrator.plan, started_at=now, ends_at=now + 0.25)
    await orchestrator.run(job, job.history)
    del job.history.runs[4:]
    job.move()
    await orchestrator.run(job, job.history)
    assert seen == [{"1": [0.9, "red"]}] * 4


async def test_an_object_that_stages_share_stays_as_it_is() -> None:
    """Ordinary caches return one object to all queries: what is done to it is not seen by the next."""
    app = empty_app()

    @lru_cache
    def classify(text: str) -> dict[str, Any]:
        return {"intent": text, "scopes": [text]}

    @lru_cache
    def row_of(text: str) -> dict[str, Any]:
        return {"answer": {"rows": [text]}}

    @app.intent
    async def intent(query: Query, _ctx: StageContext) -> Any:
        return classify(query.user_input)

    @app.node("main")
    async def main(query: Query, ctx: StageContext) -> Any:
        ctx.results["intent"]["scopes"].append(query.context["user"])
        return row_of(query.user_input)

    @app.reflection
    async def reflect(query: Query, ctx: StageContext) -> Any:
        ctx.answer["rows"].append(query.context["user"])
        ctx.results["processing"]["answer"]["user"] = query.context["user"]
        return {"scopes": ctx.results["intent"]["scopes"], "answer": ctx.answer}

    orchestrator = Orchestrator(app)
    for user in ("ann", "bob"):
        result = await orchestrator.process_query("x", context={"user": user})
        assert result.answer == {"rows": ["x"]}
        assert result.stages[0].data == {"intent": "x", "scopes": ["x"]}
        assert result.stages[4].data == {
            "scopes": ["x", user],
            "answer": {"rows": ["x", user], "user": user},
        }


@pytest.mark.parametrize("stage", [StageType.PROCESSING, StageType.REFLECTION])
async def test_the_results_so_far_may_be_returned(stage: StageType) -> None:
    """The data of a stage does not become a part of itself."""
    app = empty_app()

    @app.node("main")
    async def main(_query: Query, ctx: StageContext) -> Any:
        return {"answer": ["x", ctx.results]} if stage is StageType.PROCESSING else {"answer": "x"}

    @app.reflection
    async def reflect(_query: Query, ctx: StageContext) -> Any:
        return ctx.results

    result = await Orchestrator(app).process_query("x")
    assert (result.status, result.degraded) == ("success", False)
    assert result.stages[4].data["processing"] == result.stages[2].data


async def test_what_is_not_a_number_is_null() -> None:
    """The built-in validation looks at what is published: no answer, or no confidence."""
    app = empty_app()

    @app.node("main")
    async def main(query: Query, _ctx: StageContext) -> Any:
        return (
            {"answer": float("nan")} if query.user_input == "a" else {"answer": 1, "confidence": float("nan")}
        )

    orchestrator = Orchestrator(app)
    result = await orchestrator.process_query("a")
    assert (result.answer, result.validated, result.degraded) == (None, False, True)
    result = await orchestrator.process_query("b")
    assert (result.answer, result.confidence, result.validated) == (1, None, True)


async def test_an_answer_beside_data_that_is_too_large() -> None:
    """Later stages see it as anywhere else."""
    seen: list[Any] = []
    app = app_of({"answer": Decimal("0.10"), "log": "x" * 1000}, seen)
    result = await Orchestrator(app, max_data_bytes=100).process_query("x")
    assert (result.error_type, seen[0], result.stages[2].data) == ("result_too_large", "0.10", None)


async def test_data_that_is_too_large_is_passed_on_as_it_is() -> None:
    """A copy of it could take seconds, and it is in no event."""
    app, seen = empty_app(), list[Any]()
    rows = ("b" * 60,) * 200

    @app.intent
    async def intent(_query: Query, _ctx: StageContext) -> Any:
        return {"intent": "x", "rows": rows}

    @app.node("main")
    async def main(_query: Query, ctx: StageContext) -> Any:
        seen.append(ctx.results["intent"]["rows"])
        return len(ctx.results["intent"]["rows"])

    result = await Orchestrator(app, max_data_bytes=5000).process_query("x")
    assert (result.answer, result.stages[0].data, seen[0] is rows) == (200, None, True)


async def test_a_further_attempt_sees_what_the_first_one_saw() -> None:
    """A node that fails may have changed its own copy of what earlier stages returned."""
    app = empty_app()

    @app.intent
    async def intent(_query: Query, _ctx: StageContext) -> Any:
        return {"intent": "x", "scopes": []}

    @app.node("main", intents={"x"})
    async def main(_query: Query, ctx: StageContext) -> Any:
        ctx.results["intent"]["scopes"].append("main")
        raise LookupError

    @app.node("other", intents={"x"})
    async def other(_query: Query, ctx: StageContext) -> Any:
        return {"answer": ctx.results["intent"]["scopes"]}

    result = await Orchestrator(app).process_query("x")
    assert (result.node, result.answer) == ("other", [])


async def test_the_context_of_a_query_is_its_own() -> None:
    """What a node changes in it is not in the caller's object, nor in the next query with it."""
    app, context = empty_app(), {"users": ["ann"]}

    @app.node("main")
    async def main(query: Query, _ctx: StageContext) -> Any:
        query.context["users"].append("main")
        return query.context["users"]

    for _ in range(2):
        result = await Orchestrator(app).process_query("x", context=context)
        assert (result.answer, context) == (["ann", "main"], {"users": ["ann"]})


@pytest.mark.parametrize("context", [{"a": "\ud800"}, {"a": object()}])
async def test_a_context_that_is_not_json_is_a_wrong_argument(context: dict[str, Any]) -> None:
    """The error names the argument."""
    with pytest.raises(ValueError, match="context"):
        await Orchestrator(empty_app()).process_query("x", context=context)


class Reply(BaseModel):
    """What a node may return."""

    answer: str
    confidence: float


@pytest.mark.parametrize(
    "value",
    [
        Reply(answer="x", confidence=0.4),
        {"answer": Decimal("0.10"), "confidence": 0.4},
        {"answer": 1, "confidence": float("nan")},
        {"answer": float("inf")},
        ("x", 1),
    ],
    ids=repr,
)
async def test_an_offer_is_read_as_what_is_returned(value: Any) -> None:
    """The same answer and confidence, whichever of the two counts."""
    app = empty_app()

    @app.node("main")
    async def main(query: Query, ctx: StageContext) -> Any:
        if query.user_input == "return":
            return value
        ctx.offer(value)
        await asyncio.sleep(60)
        return None

    orchestrator = Orchestrator(app)
    returned = await orchestrator.process_query("return")
    offered = await orchestrator.process_query("offer")
    assert (offered.answer, offered.confidence, offered.partial) == (
        returned.answer,
        returned.confidence,
        True,
    )
