"""Encodes the data that stages return as JSON, once, where it was made; events embed it as it is."""

from __future__ import annotations

from typing import Any, Final

import orjson

from fivestage.core.codec.jsonable import plain, with_big_integers

_OPTIONS: Final = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
"""Dataclasses and times are no JSON yet: ``plain`` converts them, so that later stages see what the event
says."""


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

    Text that is too long is not encoded at all, which would block the interpreter for tens of milliseconds.

    Raises:
        TypeError, ValueError: as above.
    """
    if max_bytes is None:
        return to_json(data)
    for part in data.values() if isinstance(data, dict) else (data,):
        if isinstance(part, str) and len(part) > max_bytes:
            return None
    encoded = to_json(data)
    return encoded if len(encoded) <= max_bytes else None


def as_json(data: Any, max_bytes: int | None) -> tuple[Any, bytes | None]:
    """Encode what a stage returned; return it as later stages see it, with its JSON (None if too large).

    Objects with a JSON form are converted, so that later stages see what the event says.

    Raises:
        TypeError, ValueError: it has no JSON form; the text names the path and the type.
    """
    try:
        return data, limited_json(data, max_bytes)
    except TypeError:
        data = plain(data)
        return data, limited_json(data, max_bytes)
