"""Why a query is not started."""

from __future__ import annotations

from typing import Final, NamedTuple

from fivestage_schemas import TimeoutReason


class RejectionCause(NamedTuple):
    """What the events of a query that is not started say."""

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
"""It may be what stalls the process (see ``core.admission.poison_pills``)."""
