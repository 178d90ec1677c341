"""QueryEvent: what producers write to ``fivestage.queries``."""

from typing import Annotated

from pydantic import BeforeValidator, Field, StringConstraints

from fivestage_schemas.base import Event, JsonValue, Lane, QueryId, Timestamp

MAX_USER_INPUT_BYTES = 32 * 1024
"""The longest ``user_input``, counted in UTF-8 bytes."""


def _no_number(value: object) -> object:
    """Keep pydantic from reading a number as seconds since the epoch: the contract says RFC 3339."""
    if isinstance(value, int | float):
        raise ValueError("RFC 3339 with offset is needed")  # noqa: TRY004 - pydantic wants a ValueError
    return value


class QueryEvent(Event):
    """A question, and how long its answer is of use."""

    query_id: QueryId
    user_input: Annotated[str, StringConstraints(max_length=MAX_USER_INPUT_BYTES)]
    """The question as the user put it; at most 32 KiB as UTF-8."""
    lane: Lane | None = None
    """Traffic class; the service's own lane when absent."""
    deadline: Annotated[Timestamp | None, BeforeValidator(_no_number)] = None
    """When the answer stops being of use (absolute, wall clock)."""
    budget_ms: Annotated[int, Field(ge=1, strict=True)] | None = None
    """How long the query may take once it has started; can shorten the service's total, never lengthen it."""
    context: dict[str, JsonValue] | None = None
    """Whatever the nodes of this deployment want to know beside the question."""
