"""The built-in validation stage: the node's own check, or a check of the answer's form."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING, Any, Final

from fivestage.core.codec.jsonable import plain, type_name
from fivestage.errors import NodeError
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fivestage.pipeline.context import Query, StageContext
    from fivestage.pipeline.node import Node

_ROUNDING: Final = 1e-6
"""A sum of probabilities may be this far above 1."""


def validation_stage(nodes: Mapping[str, Node]) -> Callable[[Query, StageContext], Awaitable[bool]]:
    """Make the stage function for *nodes*.

    The called node's ``validate`` decides; a ``def`` runs in a thread, since it may block. For a node without
    ``validate``, ``fault_of`` decides. ``ctx.rejection`` says why an answer was rejected. The stage function
    raises NodeError if ``validate`` returns anything but True or False.
    """

    async def validation(query: Query, ctx: StageContext) -> bool:
        node = nodes.get(ctx.node) if ctx.node else None
        check = node.validate if node else None
        if check is None:
            ctx.rejection = fault_of(ctx.answer, ctx.results.get(StageType.PROCESSING), ctx.confidence)
            return ctx.rejection is None
        called = check.call(query, ctx) if check.is_async else ctx.run_sync(check.call, query, ctx)
        found = await called
        if inspect.isawaitable(found):  # a def around an async def
            found = await found
        verdict = found if isinstance(found, bool) else _plain(found)
        if not isinstance(verdict, bool):
            raise NodeError(f"{check.name} must return True or False, it returned {type_name(found)}")
        ctx.rejection = None if verdict else f"{check.name} returned False"
        return verdict

    return validation


def _plain(verdict: Any) -> Any:
    """A verdict as in JSON, where one of numpy is a bool as well."""
    try:
        return plain(verdict)
    except (TypeError, ValueError):
        return verdict


def fault_of(answer: Any, result: Any = None, confidence: Any = None) -> str | None:
    """Why an answer cannot be one: it is missing, or its confidence is outside 0..1. None if it can.

    The text quotes no text of the answer, so that it may be shown where answers may not.

    Args:
        answer: The answer; None, blank text and empty collections are no answer, 0 and False are one.
        result: All that the node returned; a ``confidence`` in it is checked too.
        confidence: The confidence that the pipeline read in *result*; None if the node gave none.
    """
    if answer is None:
        return "there is no answer: it is null"
    if isinstance(answer, Sized) and not len(answer):
        return f"there is no answer: it is an empty {type(answer).__name__}"
    if isinstance(answer, str) and not answer.strip():
        return "there is no answer: it is blank"
    stated = result.get("confidence") if isinstance(result, Mapping) else None
    return _out_of_range(stated) or _out_of_range(confidence)


def _out_of_range(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):  # decimals too are texts by now
        return "the confidence is a text, not a number from 0 to 1: return a float"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"the confidence is a {type(value).__name__}, not a number from 0 to 1"
    # A comparison with NaN is false, so NaN is out of range too.
    in_range = -_ROUNDING <= value <= 1 + _ROUNDING
    return None if in_range else f"the confidence is {_shown(value)}, not a number from 0 to 1"


def _shown(value: float) -> str:
    try:
        return f"{value:.9g}"
    except OverflowError:  # an integer of more than 308 digits
        return "very large" if value > 0 else "very small"
