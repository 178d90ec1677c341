"""JSON of what authors return: models, dataclasses, sets, arrays; and the path to what has none."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import deque
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

import orjson
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

MAX_DEPTH: Final = 254
"""As deep as values may be nested; orjson's limit."""
MAX_SEARCHED: Final = 10_000
"""How many values are looked at for the one that has no JSON: the loop waits meanwhile."""
MAX_KEY_CHARS: Final = 50
_ARRAYS: Final = (list, tuple, set, frozenset, deque)
_LEAVES: Final = (str, int, float, type(None))
_AS_PYDANTIC_DOES: Final = (Decimal, timedelta, UUID)


class NoJsonError(TypeError):
    """A value has no JSON; the text is the name of its type."""


def plain(data: Any) -> Any:
    """*data* as a reader of its JSON sees it: dicts, lists, texts, numbers, bools and None.

    A pydantic model becomes what ``model_dump(mode="json")`` makes of it; dataclasses and other mappings
    become dicts; sets, tuples and numpy arrays lists; decimals texts; dates and times ISO 8601.

    Raises:
        TypeError: something in it has no JSON; the text says what and where, such as ``items[3]: bytes``.
        ValueError: it contains itself, or an integer of more than 4,300 digits.
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
    """JSON of what orjson refuses for an integer of more than 64 bits; otherwise as orjson writes it.

    Args:
        data: Any JSON value.
        default: Makes one of other objects.

    Raises:
        TypeError, ValueError: as above.
    """
    try:
        return _dumps(data, default, allow_nan=False)
    except ValueError:  # mostly for a number that is infinite or none: null, as in orjson
        data = json.loads(_dumps(data, default, allow_nan=True), parse_constant=_null)
        return _dumps(data, None, allow_nan=False)


def _dumps(data: Any, default: Callable[[Any], Any] | None, *, allow_nan: bool) -> str:
    return json.dumps(data, default=default, allow_nan=allow_nan, ensure_ascii=False, separators=(",", ":"))


def _null(_: str) -> None:
    """What NaN, Infinity and -Infinity become."""


_PASSED_ON: Final = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


def _converted(value: Any) -> Any:  # noqa: PLR0911 - a table
    """One step towards JSON; what is inside comes here by itself.

    Raises:
        NoJsonError: there is none.
    """
    if isinstance(value, BaseModel):
        # Without its warnings, which quote what the model holds.
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
    if isinstance(value, _AS_PYDANTIC_DOES):
        return to_jsonable_python(value)
    if isinstance(value, Enum):
        return value.value
    return _from_numpy(value)


def _from_numpy(value: Any) -> Any:
    """The same for numpy's scalars and arrays; where it has not been imported, there are none."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.generic | numpy.ndarray):
        if isinstance(value, float):  # a class of the user's own
            return float(value)
        raise NoJsonError(type(value).__name__)
    try:  # the shortest digits: 0.1 of 32 bits would become 0.10000000149011612
        return orjson.loads(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))
    except TypeError:  # not contiguous, or of a type that it does not know
        found = value.tolist()
    if isinstance(found, numpy.generic | numpy.ndarray):
        raise NoJsonError(type(value).__name__)
    return found


def _where(value: Any, path: str, depth: int, left: list[int]) -> str | None:
    """Path and type of the first value that has no JSON; None if *left* values are not enough to find it."""
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
            return f"{prefix}{kind}" if why == kind else f"{prefix}{kind} ({why})"
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
