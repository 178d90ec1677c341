"""What all events share: frozen, unknown fields ignored on reading, one schema version."""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

SCHEMA_VERSION: Literal["1"] = "1"

JsonValue = Any
"""Any JSON value. Left unchecked on purpose: it was JSON on the wire a moment ago."""

QueryId = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:-]+$")]
"""Names a query: 1-128 characters of ``A-Za-z0-9._:-``, chosen by the producer."""

Lane = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
"""Names a traffic class such as ``prod`` or ``canary``."""

Milliseconds = Annotated[float, Field(ge=0)]
"""A duration in milliseconds."""

Timestamp = AwareDatetime
"""RFC 3339 with offset. Wall clock: good for people and for ordering by eye, not for measuring."""


class Frozen(BaseModel):
    """A value: immutable, tolerant of fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class Event(Frozen):
    """A record value on one of the topics."""

    schema_version: Literal["1"] = SCHEMA_VERSION
    """Changes only when readers would break."""


class Source(Frozen):
    """Where the query was read: the coordinates of its record."""

    topic: str
    partition: Annotated[int, Field(ge=0)]
    offset: Annotated[int, Field(ge=0)]
