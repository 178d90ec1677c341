"""Reads what stages returned: the chosen node, the answer and its confidence, the verdict."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fivestage.core.codec.jsonable import type_name
from fivestage.errors import NodeError
from fivestage.pipeline.answers import answer_of
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from fivestage.core.offer import Offer
    from fivestage.pipeline.context import StageContext

_DECISION: Final = StageType.DECISION
_PROCESSING: Final = StageType.PROCESSING
_VALIDATION: Final = StageType.VALIDATION


class DataLimit(NamedTuple):
    """The largest data that a stage may return."""

    max_bytes: int | None
    """Data that takes more bytes as JSON is left out of the results; None = no limit."""
    left_out: bytes
    """JSON that stands for an answer above the limit; the encoder rejects it for its size."""

    @classmethod
    def of(cls, max_bytes: int | None) -> DataLimit:
        """Make the limit of *max_bytes*."""
        return cls(max_bytes, b"" if max_bytes is None else b'"%b"' % (b" " * max_bytes))


def record(ctx: StageContext, data: Any) -> None:
    """Put what the stage of *ctx* returned into *ctx*, for the later stages.

    Raises:
        NodeError: the data of validation is no verdict.
    """
    if ctx.stage_type is _DECISION:
        ctx.node = data
    elif ctx.stage_type is _PROCESSING:
        ctx.answer, ctx.confidence = answer_of(data)
    elif ctx.stage_type is _VALIDATION:
        ctx.validated = verdict_of(data)
    ctx.results[ctx.stage_type] = data


def record_offer(ctx: StageContext, offer: Offer) -> None:
    """Put an offered answer into *ctx*, for the later stages."""
    ctx.answer = json.loads(offer.answer_json)  # unlike orjson it reads integers of any size
    ctx.confidence, ctx.node, ctx.partial = offer.confidence, offer.node, True


def check_intent(data: Any) -> None:
    """Check what an intent stage returned, for the built-in decision, which chooses a node by it.

    Raises:
        NodeError: it is neither an intent nor a dict with the intent as ``intent``.
    """
    untyped: Any = data  # as in answers.py
    intent: Any = untyped.get("intent") if isinstance(data, dict) else data
    if isinstance(intent, str) and intent:
        return
    said = "an empty text" if intent == "" else type_name(intent)
    if isinstance(data, dict):
        said = f'a dict whose "intent" is {said}' if "intent" in untyped else 'a dict without "intent"'
    raise NodeError(
        f'the intent stage must return {{"intent": ..., "confidence": ...}}, or only the intent; got {said}'
    )


def verdict_of(data: Any) -> bool:
    """The verdict that validation returned: True or False, or a dict with the verdict as ``valid``.

    Raises:
        NodeError: validation returned something else.
    """
    untyped: Any = data  # likewise
    verdict: Any = untyped.get("valid") if isinstance(data, dict) else data
    if isinstance(verdict, bool):
        return verdict
    found = type_name(verdict)
    said = f'a dict whose "valid" is {found}' if isinstance(data, dict) else found
    raise NodeError(f'validation must return True or False, or a dict with it as "valid"; got {said}')
