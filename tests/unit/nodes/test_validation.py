from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fivestage import NodeError, Pipeline
from fivestage.nodes.reflection import reflection
from fivestage.nodes.validation import fault_of
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Callable


def pipeline(validate: Callable[..., Any] | None) -> Pipeline:
    """Build a pipeline with one node that has this check."""
    app = Pipeline(builtins=False)
    app.node("mine", intents={"general"}, validate=validate)(lambda query, ctx: {"answer": 1})  # noqa: ARG005
    return app


async def test_async_check_is_awaited(ask: Callable[..., Any], context: Callable[..., Any]) -> None:
    """A coroutine function as check decides, and sees the answer."""

    async def check(query: Any, ctx: Any) -> bool:  # noqa: ARG001
        return bool(ctx.answer == 1)

    stage = pipeline(check).stage(StageType.VALIDATION).call
    assert await stage(ask(""), context(node="mine", answer=1)) is True
    ctx = context(node="mine", answer=2)
    assert (await stage(ask(""), ctx), ctx.rejection) == (False, "mine.validate returned False")


async def test_blocking_check_runs_in_a_thread(ask: Callable[..., Any], context: Callable[..., Any]) -> None:
    """A plain function runs in the executor's threads, not on the loop."""
    handed: list[Any] = []

    class Threads:
        async def run(self, function: Callable[..., Any], *args: Any, name: str = "") -> Any:
            handed.append((function, name))
            return function(*args)

    def check(query: Any, ctx: Any) -> bool:  # noqa: ARG001
        return False

    stage = pipeline(check).stage(StageType.VALIDATION).call
    assert await stage(ask(""), context(node="mine", answer=1, threads=Threads())) is False
    assert handed == [(check, "validation")]


async def test_a_def_around_an_async_check(ask: Callable[..., Any], context: Callable[..., Any]) -> None:
    """A check behind a decorator that is no coroutine function is awaited as well."""

    async def check(query: Any, ctx: Any) -> bool:  # noqa: ARG001
        return False

    class Threads:
        async def run(self, function: Callable[..., Any], *args: Any, name: str = "") -> Any:  # noqa: ARG002
            return function(*args)

    def wrapped(query: Any, ctx: Any) -> Any:
        return check(query, ctx)

    stage = pipeline(wrapped).stage(StageType.VALIDATION).call
    assert await stage(ask(""), context(node="mine", answer=1, threads=Threads())) is False


async def test_a_verdict_of_numpy(ask: Callable[..., Any], context: Callable[..., Any]) -> None:
    """A bool of numpy, such as ``np.isfinite`` returns, is a verdict."""

    async def check(query: Any, ctx: Any) -> Any:  # noqa: ARG001
        return np.isfinite(ctx.answer)

    stage = pipeline(check).stage(StageType.VALIDATION).call
    assert await stage(ask(""), context(node="mine", answer=1.0)) is True
    assert await stage(ask(""), context(node="mine", answer=float("inf"))) is False


async def test_check_without_verdict(ask: Callable[..., Any], context: Callable[..., Any]) -> None:
    """A check that returns nothing raises instead of counting as a rejection."""
    stage = pipeline(lambda query, ctx: None).stage(StageType.VALIDATION).call  # noqa: ARG005
    with pytest.raises(NodeError, match=r"mine\.validate must return True or False, it returned NoneType"):
        await stage(ask(""), context(node="mine", answer=1))


@pytest.mark.parametrize(
    ("answer", "confidence", "fault"),
    [
        (1, None, None),
        (0, 0.0, None),
        (False, 1, None),
        ("yes", 0.5, None),
        (None, 0.5, "there is no answer: it is null"),
        ("", 0.5, "there is no answer: it is an empty str"),
        (" \n", 0.5, "there is no answer: it is blank"),
        ([], 0.5, "there is no answer: it is an empty list"),
        ({}, 0.5, "there is no answer: it is an empty dict"),
        ("yes", 1.0000001, None),
        ("yes", -0.0000001, None),
        ("yes", 1.000002, "the confidence is 1.000002, not a number from 0 to 1"),
        ("yes", 1.01, "the confidence is 1.01, not a number from 0 to 1"),
        ("yes", -0.1, "the confidence is -0.1, not a number from 0 to 1"),
        ("yes", 10**400, "the confidence is very large, not a number from 0 to 1"),
        ("yes", float("nan"), "the confidence is nan, not a number from 0 to 1"),
        ("yes", "high", "the confidence is a text, not a number from 0 to 1: return a float"),
        ("yes", True, "the confidence is a bool, not a number from 0 to 1"),
    ],
)
async def test_without_check(
    answer: Any,
    confidence: Any,
    fault: str | None,
    ask: Callable[..., Any],
    context: Callable[..., Any],
) -> None:
    """Without a check an answer is valid if there is one and no confidence is out of range."""
    stage = pipeline(None).stage(StageType.VALIDATION).call
    result = {"answer": answer, "confidence": confidence}
    ctx = context(node="mine", answer=answer, result=result)
    assert (await stage(ask(""), ctx), ctx.rejection) == (fault is None, fault)
    assert fault_of(answer, None, confidence) == fault


@pytest.mark.parametrize(
    ("validated", "verdict", "confidence", "note"),
    [
        (True, "confirmed", 0.9, []),
        (False, "doubted", 0.225, ["validation rejected the answer"]),
        (None, "unchecked", 0.72, ["validation reached no verdict"]),
    ],
)
async def test_reflection(
    validated: bool | None,  # noqa: FBT001
    verdict: str,
    confidence: float,
    note: list[str],
    ask: Callable[..., Any],
    context: Callable[..., Any],
) -> None:
    """Reflection turns the verdict into a word, lowers the confidence, and explains it."""
    ctx = context(intent={"intent": "general"}, node="mine", answer=1, confidence=0.9, validated=validated)
    first = await reflection(ask(""), ctx)
    assert first == {
        "verdict": verdict,
        "confidence": confidence,
        "intent": "general",
        "node": "mine",
        "notes": note,
    }
    assert await reflection(ask(""), ctx) == first


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"confidence": None}, "the node gave no confidence"),
        ({"confidence": 0.0}, "the node did not know"),
        ({"confidence": 0.4}, "the node was not sure (0.40)"),
        ({"confidence": 1.0, "intent": {"confidence": 0.5}}, "the intent was not clear (0.50)"),
        ({"confidence": 1.0, "result": {"exact": False}}, "the answer is rounded"),
        ({"confidence": 1.0, "attempt": 2}, "attempt 2"),
    ],
)
async def test_reflection_notes(
    fields: dict[str, Any], note: str, ask: Callable[..., Any], context: Callable[..., Any]
) -> None:
    """Each circumstance that weakens an answer has its note, and there are no others."""
    assert (await reflection(ask(""), context(validated=True, **fields)))["notes"] == [note]
