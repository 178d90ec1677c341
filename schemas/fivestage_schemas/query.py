"""QueryEvent: a query, as producers write it to ``fivestage.queries``."""

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
    """Reject numbers, also as strings: pydantic would read them as seconds since the epoch."""
    if value is None or isinstance(value, datetime) or (isinstance(value, str) and _DATE.match(value)):
        return value
    raise ValueError("RFC 3339 with offset is needed")


def _short_enough(value: str) -> str:
    if len(value) * 4 > MAX_USER_INPUT_BYTES:  # a character takes at most four bytes
        size = len(value.encode("utf-8", "surrogatepass"))
        if size > MAX_USER_INPUT_BYTES:
            raise PydanticCustomError("too_large", "{size} bytes are more than 32 KiB", {"size": size})
    return value


class QueryEvent(Event):
    """A question, and until when its answer is useful."""

    query_id: QueryId
    user_input: Annotated[
        str, AfterValidator(_short_enough), Field(json_schema_extra={"maxLength": MAX_USER_INPUT_BYTES})
    ]
    """The question; at most 32 KiB as UTF-8."""
    lane: Lane | None = None
    """The traffic class; the service's default lane if absent."""
    deadline: Annotated[Timestamp | None, BeforeValidator(_rfc3339)] = None
    """The end-to-end deadline: when the answer stops being useful, by the wall clock."""
    budget_ms: Annotated[int, Field(ge=1, strict=True)] | None = None
    """How long the query may take from its start; can only shorten the service's limit."""
    context: dict[str, JsonValue] | None = None
    """Further input for the nodes of this deployment."""
    allow_partial: Annotated[bool, Field(strict=True)] | None = None
    """Whether an answer that a node offered before its limit may stand for the final one, as a degraded
    success; the service's ``pipeline.allow_partial`` if absent."""
