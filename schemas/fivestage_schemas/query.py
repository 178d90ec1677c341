"""QueryEvent: what producers write to ``fivestage.queries``."""

import re
from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from fivestage_schemas.base import Event, JsonValue, Lane, QueryId, Timestamp

MAX_USER_INPUT_BYTES = 32 * 1024
"""The longest ``user_input``, counted in UTF-8 bytes."""


_DATE = re.compile(r"\d{4}-\d\d-\d\d[Tt ]")


def _rfc3339(value: object) -> object:
    """Keep pydantic from reading numbers, bare or as text, as seconds since the epoch."""
    if value is None or isinstance(value, datetime) or (isinstance(value, str) and _DATE.match(value)):
        return value
    raise ValueError("RFC 3339 with offset is needed")


def _short_enough(value: str) -> str:
    if len(value) * 4 > MAX_USER_INPUT_BYTES:  # cannot be too long otherwise
        size = len(value.encode("utf-8", "surrogatepass"))
        if size > MAX_USER_INPUT_BYTES:
            raise PydanticCustomError("too_large", "{size} bytes are more than 32 KiB", {"size": size})
    return value


class QueryEvent(Event):
    """A question, and how long its answer is of use."""

    query_id: QueryId
    user_input: Annotated[str, AfterValidator(_short_enough)]
    """The question as the user put it; at most 32 KiB as UTF-8."""
    lane: Lane | None = None
    """Traffic class; the service's own lane when absent."""
    deadline: Annotated[Timestamp | None, BeforeValidator(_rfc3339)] = None
    """When the answer stops being of use (absolute, wall clock)."""
    budget_ms: Annotated[int, Field(ge=1, strict=True)] | None = None
    """How long the query may take once it has started; can shorten the service's total, never lengthen it."""
    context: dict[str, JsonValue] | None = None
    """Whatever the nodes of this deployment want to know beside the question."""
