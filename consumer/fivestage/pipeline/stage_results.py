"""Reads what stages returned: the chosen node, the answer and its confidence, the verdict."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

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


def verdict_of(data: Any) -> bool:
    """The verdict that validation returned: True or False, or a dict with the verdict as ``valid``.

    Raises:
        NodeError: validation returned something else.
    """
    untyped: Any = data  # as above
    verdict: Any = untyped.get("valid") if isinstance(data, dict) else data
    if isinstance(verdict, bool):
        return verdict
    found = type(verdict).__name__
    said = f'a dict whose "valid" is {found}' if isinstance(data, dict) else found
    raise NodeError(f'validation must return True or False, or a dict with it as "valid"; got {said}')
