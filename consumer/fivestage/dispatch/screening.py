"""Decodes each record, computes the budget of its query, and rejects queries that cannot be in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fivestage.core.admission.load_shedding import Shedder, Verdict
from fivestage.core.codec.decode import DecodeLimits, Readable, Unreadable, UnreadableReason, decode
from fivestage.core.deadline import Budget, budget_of
from fivestage.core.records import CorruptRecord
from fivestage.core.rejection_cause import EXPIRED, WOULD_EXPIRE
from fivestage.dispatch.in_flight import InFlightQuery, size_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.adaptive.lane_state import LaneState
    from fivestage.core.ledger import PartitionOffsets
    from fivestage.core.observer import Observer
    from fivestage.core.records import Record
    from fivestage.core.rejection_cause import RejectionCause

_RUN: Final = Verdict.RUN


class Screening:
    """Reads and screens queries before they start.

    Args:
        shedder: Estimates whether an answer would come in time.
        limits: The accepted lanes and sizes of records.
        total_s: The longest budget of a query, and the default.
        ttl_ms: How long after its timestamp a record is worth answering; 0 = no limit.
        observer: Counts shed queries, and records with timestamps in the future.
        wall_clock: Returns seconds since the epoch.
    """

    def __init__(
        self,
        shedder: Shedder,
        *,
        limits: DecodeLimits,
        total_s: float,
        ttl_ms: int,
        observer: Observer,
        wall_clock: Callable[[], float],
    ) -> None:
        self._shedder = shedder
        self._limits = limits
        self._total_s = total_s
        self._ttl_ms = ttl_ms
        self._observer = observer
        self.wall_clock = wall_clock

    def __repr__(self) -> str:
        return f"<Screening total_s={self._total_s} {self._shedder}>"

    def read(self, item: Record | CorruptRecord, offsets: PartitionOffsets, now: float) -> InFlightQuery:
        """Decode a record, and compute its budget as of *now* (monotonic seconds)."""
        wall_now = self.wall_clock()
        if isinstance(item, CorruptRecord):
            unreadable = Unreadable(UnreadableReason.CORRUPT_RECORD, item.detail)
            return InFlightQuery(item.record, offsets, unreadable, size_of(item.record))
        decoded = decode(item, self._limits)
        query = InFlightQuery(item, offsets, decoded, size_of(item))
        if isinstance(decoded, Readable):
            query.budget = self.budget(item, decoded, now, wall_now)
        return query

    def budget(self, record: Record, readable: Readable, now: float, wall_now: float) -> Budget:
        """Return a query's budget; *now* in monotonic seconds, *wall_now* in seconds since the epoch."""
        return budget_of(
            now=now,
            wall_now=wall_now,
            total_s=self._total_s,
            budget_ms=readable.event.budget_ms,
            deadline=readable.event.deadline,
            expiry_time=readable.expiry_time,
            written_at=_written_at(record),
            ttl_ms=self._ttl_ms,
        )

    def rejection(self, budget: Budget, state: LaneState, lane: str, now: float) -> RejectionCause | None:
        """Return why a query must not start; None if it may."""
        if budget.expired:
            return EXPIRED
        verdict = self._shedder.judge(budget, state.answer_time_s, now)
        if verdict is _RUN:
            return None
        self._observer.shed(lane, refused=verdict is Verdict.REJECT)
        return WOULD_EXPIRE if verdict is Verdict.REJECT else None

    def queue_s(self, record: Record, wall_now: float) -> float:
        """Return the age of a record; 0 when its timestamp is unknown or in the future."""
        written_at = _written_at(record)
        if written_at is None:
            return 0.0
        if written_at > wall_now:
            self._observer.clock_skewed()
            return 0.0
        return wall_now - written_at


def _written_at(record: Record) -> float | None:
    return record.timestamp / 1000 if record.timestamp > 0 else None
