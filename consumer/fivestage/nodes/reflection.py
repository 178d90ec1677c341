"""The built-in reflection stage: sums up what the earlier stages say about the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fivestage.nodes.decision import intent_of
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from fivestage.pipeline.context import Query, StageContext

DOUBTED_FACTOR = 0.25
"""Factor of the node's confidence if validation rejected its answer."""
UNCHECKED_FACTOR = 0.8
"""Factor of the node's confidence if validation reached no verdict."""
LOW_CONFIDENCE = 0.6
"""A confidence below this gets a note."""

_VERDICTS = {
    True: ("confirmed", 1.0),
    False: ("doubted", DOUBTED_FACTOR),
    None: ("unchecked", UNCHECKED_FACTOR),
}


async def reflection(query: Query, ctx: StageContext) -> dict[str, Any]:  # noqa: ARG001
    """Weigh the answer. The same inputs give the same result.

    Returns:
        ``verdict``: ``confirmed``, ``doubted`` (the answer was rejected) or ``unchecked`` (no verdict);
        ``confidence``: the node's, 0..1, lowered by the verdict; None if the node gave none;
        ``intent`` and ``node``: how the query was routed; ``notes``: texts for people, most important first.
    """
    verdict, weight = _VERDICTS[ctx.validated]
    return {
        "verdict": verdict,
        "confidence": None if ctx.confidence is None else round(ctx.confidence * weight, 4),
        "intent": intent_of(ctx.results.get(StageType.INTENT)),
        "node": ctx.node,
        "notes": _notes(ctx),
    }


def _notes(ctx: StageContext) -> list[str]:
    notes = [_VALIDATION_NOTES[ctx.validated]] if ctx.validated is not True else []
    if ctx.confidence is None:
        notes.append("the node gave no confidence")
    elif ctx.confidence == 0:
        notes.append("the node did not know")
    elif ctx.confidence < LOW_CONFIDENCE:
        notes.append(f"the node was not sure ({ctx.confidence:.2f})")
    certainty = _member(ctx, StageType.INTENT, "confidence")
    if isinstance(certainty, int | float) and certainty < LOW_CONFIDENCE:
        notes.append(f"the intent was not clear ({certainty:.2f})")
    if _member(ctx, StageType.PROCESSING, "exact") is False:
        notes.append("the answer is rounded")
    if ctx.attempt > 1:
        notes.append(f"attempt {ctx.attempt}")
    return notes


_VALIDATION_NOTES = {
    False: "validation rejected the answer",
    None: "validation reached no verdict",
}


def _member(ctx: StageContext, stage: StageType, key: str) -> Any:
    result = ctx.results.get(stage)
    return result.get(key) if isinstance(result, Mapping) else None
