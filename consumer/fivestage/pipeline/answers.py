"""Reads the answer and its confidence in what a node returns or offers."""

from __future__ import annotations

from numbers import Real
from typing import Any

from fivestage.core.codec.data_json import as_json
from fivestage.core.offer import Offer


def answer_of(data: Any) -> tuple[Any, float | None]:
    """Answer and confidence in what a node returned: a dict with ``answer``, or the answer itself."""
    untyped: Any = data  # compiled code would bypass the methods of a subclass of dict
    if not isinstance(data, dict) or "answer" not in untyped:
        return data, None
    answer, confidence = untyped["answer"], untyped.get("confidence")
    if isinstance(confidence, bool) or not isinstance(confidence, int | float):
        return answer, None
    return answer, min(1.0, max(0.0, float(confidence)))


def offer_of(answer: Any, confidence: Any, *, node: str | None, max_bytes: int | None) -> Offer:
    """Encode an answer that a node offers, which may be anything that a node may return.

    Compiled, arguments of narrower types would be refused before they are checked here.

    Raises:
        TypeError: it has no JSON form, or *confidence* is no number.
        ValueError: it takes more than *max_bytes* as JSON.
    """
    if confidence is not None and (isinstance(confidence, bool) or not isinstance(confidence, Real)):
        raise TypeError(f"confidence must be a number from 0 to 1, got {type(confidence).__name__}")
    data, data_json = as_json(answer, max_bytes)
    answer, stated = answer_of(data)
    answer_json = data_json if answer is data else as_json(answer, max_bytes)[1]
    if answer_json is None:
        raise ValueError(f"the offered answer takes more than {max_bytes} bytes as JSON; offer a shorter one")
    if confidence is not None:
        stated = min(1.0, max(0.0, float(confidence)))
    return Offer(answer_json, stated, node)
