"""Base classes and field types of all events."""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

SCHEMA_VERSION: Literal["1"] = "1"

JsonValue = Any
"""Any JSON value. Not validated, because events are parsed from JSON."""

QueryId = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:-]+$")]
"""The id of a query, chosen by the producer: 1 to 128 characters of ``A-Za-z0-9._:-``."""

Lane = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
"""The name of a traffic class, such as ``prod`` or ``canary``."""

Milliseconds = Annotated[float, Field(ge=0)]
"""A duration in milliseconds."""

Timestamp = AwareDatetime
"""RFC 3339 with offset, from a wall clock; do not measure durations with it."""


class Frozen(BaseModel):
    """An immutable value; unknown fields are ignored on reading."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class Event(Frozen):
    """The value of a record on one of the topics."""

    schema_version: Literal["1"] = SCHEMA_VERSION
    """The version of the contract; raised only by incompatible changes."""


class Source(Frozen):
    """The record that the query was read from."""

    topic: str
    partition: Annotated[int, Field(ge=0)]
    offset: Annotated[int, Field(ge=0)]
