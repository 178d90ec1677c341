"""Converts application objects to JSON values: models, dataclasses, sets, arrays."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

import orjson
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

MAX_DEPTH: Final = 254
"""The deepest nesting; orjson's limit."""
MAX_SEARCHED: Final = 10_000
"""Most values that are searched for the one without a JSON form: the search blocks the event loop."""
MAX_KEY_CHARS: Final = 50
_ARRAYS: Final = (list, tuple, set, frozenset, deque)
_LEAVES: Final = (str, int, float, type(None))
_PYDANTIC_TYPES: Final = (Decimal, timedelta, UUID)


class NoJsonError(TypeError):
    """A value has no JSON form; the text is the name of its type."""


def type_name(value: Any) -> str:
    """The name of a value's class, with a hint if the value was to be awaited."""
    name = type(value).__name__
    return f"{name}; did you forget await?" if isinstance(value, Awaitable) else name


def plain(data: Any) -> Any:
    """Convert *data* to what a reader of its JSON gets: dicts, lists, strings, numbers, bools and None.

    Pydantic models become the result of ``model_dump(mode="json")``; dataclasses and other mappings dicts;
    sets, tuples and numpy arrays lists; decimals strings; dates and times ISO 8601 strings.

    Raises:
        TypeError: *data* is nested too deep, or a value in it has no JSON form; the text has the path and the
            type: ``items[3]: bytes``.
        ValueError: *data* has an integer of more than 4,300 digits, or a big integer before a value that
            contains itself.
    """
    try:
        return json.loads(_encoded(data))
    except (TypeError, RecursionError) as error:
        raise TypeError(f"not JSON: {_where(data, '', 0, [MAX_SEARCHED]) or error}") from None


def _encoded(data: Any) -> bytes | str:
    try:
        return orjson.dumps(data, default=_converted, option=orjson.OPT_NON_STR_KEYS | _PASSED_ON)
    except TypeError as error:
        if "Integer exceeds" not in str(error):
            raise
        return with_big_integers(data, _converted)


def with_big_integers(data: Any, default: Callable[[Any], Any] | None = None) -> str:
    """Encode data with integers of more than 64 bits, which orjson rejects; otherwise as orjson does.

    Args:
        data: Any JSON value.
        default: Converts other objects to JSON values.

    Raises:
        TypeError, ValueError: as ``plain``.
    """
    try:
        return _dumps(data, default, allow_nan=False)
    except ValueError:  # usually NaN or infinity, which become null, as in orjson
        data = json.loads(_dumps(data, default, allow_nan=True), parse_constant=_null)
        return _dumps(data, None, allow_nan=False)


def _dumps(data: Any, default: Callable[[Any], Any] | None, *, allow_nan: bool) -> str:
    return json.dumps(data, default=default, allow_nan=allow_nan, ensure_ascii=False, separators=(",", ":"))


def _null(_: str) -> None:
    """Return None in place of NaN, Infinity and -Infinity."""


_PASSED_ON: Final = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


def _converted(value: Any) -> Any:  # noqa: PLR0911 - a table
    """Convert one object by one step; the encoder calls this again for the objects inside.

    Raises:
        NoJsonError: *value* has no JSON form.
    """
    if isinstance(value, BaseModel):
        # No warnings, because they quote values of the model.
        return value.model_dump(mode="json", fallback=_converted, warnings=False)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: getattr(value, name) for name in names if not name.startswith("_")}
    if isinstance(value, _ARRAYS):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, _PYDANTIC_TYPES):
        return to_jsonable_python(value)
    if isinstance(value, Enum):
        return value.value
    return _from_numpy(value)


def _from_numpy(value: Any) -> Any:
    """Convert a numpy scalar or array; without an imported numpy there are none."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.generic | numpy.ndarray):
        if isinstance(value, float):  # a subclass, which orjson rejects
            return float(value)
        raise NoJsonError(type(value).__name__)
    try:  # orjson writes the shortest digits: 0.1 of 32 bits, not 0.10000000149011612
        return orjson.loads(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))
    except TypeError:  # not contiguous, or of a type that orjson does not support
        found = value.tolist()
    if isinstance(found, numpy.generic | numpy.ndarray):
        raise NoJsonError(type(value).__name__)
    return found


def _where(value: Any, path: str, depth: int, left: list[int]) -> str | None:
    """Path and type of the first value without a JSON form; None if the next *left[0]* values have one."""
    left[0] -= 1
    if left[0] < 0:
        return None
    if depth > MAX_DEPTH:
        return f"{path[:MAX_KEY_CHARS]}...: nested too deep"
    prefix = f"{path}: " if path else ""
    if isinstance(value, str) and not _is_text(value):
        return f"{prefix}a text with half a character (a lone surrogate)"
    if isinstance(value, _LEAVES):
        return None
    if not isinstance(value, dict | list | tuple):
        try:
            value = _converted(value)
        except Exception as error:  # noqa: BLE001 - code of the value's class
            kind, why = type(value).__name__, type(error).__name__
            why = str(error) if isinstance(error, NoJsonError) else why
            return f"{prefix}{type_name(value)}" if why == kind else f"{prefix}{kind} ({why})"
    return _where_inside(value, path, depth + 1, left)


def _where_inside(value: Any, path: str, depth: int, left: list[int]) -> str | None:
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(key, str) and not _is_text(key):
                return f"{path or 'it'}: a key with half a character (a lone surrogate)"
            if not isinstance(key, (*_LEAVES, datetime, date, time, UUID, Enum)):
                return f"{path or 'it'}: a key that is a {type(key).__name__}"
            if found := _where(item, _joined(path, key), depth, left):
                return found
        return None
    if isinstance(value, list | tuple):
        places = (_where(item, f"{path}[{place}]", depth, left) for place, item in enumerate(value))
        return next(filter(None, places), None)
    return _where(value, path, depth, left)


def _joined(path: str, key: Any) -> str:
    name = str(key)[:MAX_KEY_CHARS]
    if not name.isidentifier():
        return f"{path}[{name!r}]"
    return f"{path}.{name}" if path else name


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
