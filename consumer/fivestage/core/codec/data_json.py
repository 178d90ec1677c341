"""Encodes the data of stages as JSON once, in the executor; events embed the bytes unchanged."""

from __future__ import annotations

from typing import Any, Final

import orjson

from fivestage.core.codec.jsonable import plain, with_big_integers

_OPTIONS: Final = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
"""Dataclasses and times raise TypeError: ``plain`` then converts them, so that later stages see the data of
the event."""


def to_json(data: Any) -> bytes:
    """Encode any JSON value, with integers of any size; NaN and infinity become null.

    Raises:
        TypeError, ValueError: *data* is no JSON value; ``jsonable.plain`` may convert it.
    """
    try:
        return orjson.dumps(data, option=_OPTIONS)
    except TypeError as error:
        if "Integer exceeds" not in str(error):
            raise
        return with_big_integers(data).encode()


def limited_json(data: Any, max_bytes: int | None) -> bytes | None:
    """Encode any JSON value; None if that takes more than *max_bytes*.

    A text of more than *max_bytes* characters is not encoded: that could block the interpreter for tens of
    milliseconds.

    Raises:
        TypeError, ValueError: as ``to_json``.
    """
    if max_bytes is None:
        return to_json(data)
    for part in data.values() if isinstance(data, dict) else (data,):
        if isinstance(part, str) and len(part) > max_bytes:
            return None
    encoded = to_json(data)
    return encoded if len(encoded) <= max_bytes else None


def as_json(data: Any, max_bytes: int | None) -> tuple[Any, bytes | None]:
    """Encode what a stage returned; return the data for later stages, and its JSON (None if too large).

    Objects with a JSON form are converted, so that later stages see the data of the event.

    Raises:
        TypeError, ValueError: *data* has no JSON form; the text of a TypeError names the path and the type.
    """
    try:
        return data, limited_json(data, max_bytes)
    except TypeError:
        data = plain(data)
        return data, limited_json(data, max_bytes)
