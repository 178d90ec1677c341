"""Reasons for rejecting a query before it starts."""

from __future__ import annotations

from typing import Final, NamedTuple

from fivestage_schemas import TimeoutReason


class RejectionCause(NamedTuple):
    """The reason in the events of a rejected query."""

    reason: TimeoutReason
    """For programs."""
    text: str
    """For people."""


EXPIRED: Final = RejectionCause(
    TimeoutReason.EXPIRED_BEFORE_START, "its deadline had passed before it could be started"
)
WOULD_EXPIRE: Final = RejectionCause(TimeoutReason.WOULD_EXPIRE, "less time was left than an answer takes")
STALLED_TWICE: Final = RejectionCause(
    TimeoutReason.EXPIRED_BEFORE_START,
    "not started a third time: twice the process stalled past its deadline",
)
"""The query may be what stalls the process (see ``admission.poison_pills``)."""
