"""The built-in validation stage: the node's own check, or a check of the answer's form."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING, Any

from fivestage.errors import NodeError
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fivestage.pipeline.context import Query, StageContext
    from fivestage.pipeline.node import Node


def validation_stage(nodes: Mapping[str, Node]) -> Callable[[Query, StageContext], Awaitable[bool]]:
    """Make the stage function for *nodes*.

    The called node's ``validate`` decides; a ``def`` runs in a thread, since it may block. For a node without
    ``validate``, ``is_plausible`` decides. The stage function raises NodeError if ``validate`` returns
    anything but True or False.
    """

    async def validation(query: Query, ctx: StageContext) -> bool:
        node = nodes.get(ctx.node) if ctx.node else None
        check = node.validate if node else None
        if check is None:
            return is_plausible(ctx.answer, ctx.results.get(StageType.PROCESSING), ctx.confidence)
        called = check.call(query, ctx) if check.is_async else ctx.run_sync(check.call, query, ctx)
        verdict = await called
        if not isinstance(verdict, bool):
            raise NodeError(f"{check.name} must return True or False, it returned {type(verdict).__name__}")
        return verdict

    return validation


def is_plausible(answer: Any, result: Any = None, confidence: Any = None) -> bool:
    """Whether there is an answer, and no confidence outside 0..1.

    Args:
        answer: The answer; None, blank text and empty collections are no answer, 0 and False are one.
        result: All that the node returned; a ``confidence`` in it is checked too.
        confidence: The confidence that the pipeline read in *result*; None if the node gave none.
    """
    if answer is None or (isinstance(answer, Sized) and not len(answer)):
        return False
    if isinstance(answer, str) and not answer.strip():
        return False
    stated = result.get("confidence") if isinstance(result, Mapping) else None
    return _is_in_range(confidence) and _is_in_range(stated)


def _is_in_range(value: Any) -> bool:
    if value is None:
        return True
    # A comparison with NaN is false, so NaN is out of range too.
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
