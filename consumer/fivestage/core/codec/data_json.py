"""Encodes the data of stages as JSON once, in the executor; events embed the bytes unchanged."""

from __future__ import annotations

from typing import Any, Final

import orjson

from fivestage.core.codec.jsonable import plain, with_big_integers

_OPTIONS: Final = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
"""Dataclasses and times raise TypeError: ``plain`` then converts them, so that later stages see the data of
the event."""

_UNCHANGED: Final = frozenset({str, bool, int, type(None)})
"""Classes of data that nothing can change, and that are the same in the event."""


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

    Raises:
        TypeError, ValueError: as ``to_json``.
    """
    if max_bytes is None:
        return to_json(data)
    if _has_longer_text(data, max_bytes):
        return None
    encoded = to_json(data)
    return encoded if len(encoded) <= max_bytes else None


def _has_longer_text(data: Any, max_bytes: int) -> bool:
    """Such a text is not encoded: that could block the interpreter for tens of milliseconds."""
    parts = data.values() if isinstance(data, dict) else (data,)
    return any(isinstance(part, str) and len(part) > max_bytes for part in parts)


def as_json(data: Any, max_bytes: int | None) -> tuple[Any, bytes | None]:
    """Encode what a stage returned; return the data for later stages, and its JSON (None if too large).

    Later stages get a copy as in the event, as they do where the query has been moved to another loop. So
    what they do to it changes no object that the author keeps, such as one in a cache. Data that is too large
    is not copied: that could take seconds.

    Raises:
        TypeError, ValueError: *data* has no JSON form; the text of a TypeError names the path and the type.
    """
    if max_bytes is not None and _has_longer_text(data, max_bytes):
        return data, None
    try:
        encoded = orjson.dumps(data, option=_OPTIONS)
    except TypeError:  # of a class that orjson does not know, or an integer too large for it
        data = plain(data)
        return data, limited_json(data, max_bytes)
    if max_bytes is not None and len(encoded) > max_bytes:
        return data, None
    return (data if type(data) in _UNCHANGED else orjson.loads(encoded)), encoded
