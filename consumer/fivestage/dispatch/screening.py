"""Decides before a query starts how much time it has, and whether its answer would come in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fivestage.core.admission.load_shedding import Shedder, Verdict
from fivestage.core.deadline import Budget, grant
from fivestage.core.rejection_cause import EXPIRED, WOULD_EXPIRE

if TYPE_CHECKING:
    from fivestage.core.adaptive.lane_state import LaneState
    from fivestage.core.codec.decode import Readable
    from fivestage.core.observer import Observer
    from fivestage.core.records import Record
    from fivestage.core.rejection_cause import RejectionCause

_RUN: Final = Verdict.RUN


class Screening:
    """Grants a query its time, and rejects queries that cannot be answered within it.

    Args:
        shedder: Judges whether an answer would come in time.
        total_s: The time of a query that asks for nothing else.
        ttl_ms: How long after its timestamp a record is of use; 0 = for ever.
        observer: Counts rejections, and clocks that disagree.
    """

    def __init__(self, shedder: Shedder, *, total_s: float, ttl_ms: int, observer: Observer) -> None:
        self._shedder = shedder
        self._total_s = total_s
        self._ttl_ms = ttl_ms
        self._observer = observer

    def __repr__(self) -> str:
        return f"<Screening total_s={self._total_s} {self._shedder}>"

    def budget(self, record: Record, readable: Readable, now: float, wall_now: float) -> Budget:
        """What a query may take; *now* is monotonic, *wall_now* counts from the epoch, both in seconds."""
        return grant(
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
        """Why a query is not started; None if it may start."""
        if budget.expired:
            return EXPIRED
        verdict = self._shedder.judge(budget, state.answer_time_s, now)
        if verdict is _RUN:
            return None
        self._observer.shed(lane, refused=verdict is Verdict.REJECT)
        return WOULD_EXPIRE if verdict is Verdict.REJECT else None

    def queue_s(self, record: Record, wall_now: float) -> float:
        """How long a record has waited since it was written."""
        written_at = _written_at(record)
        if written_at is None:
            return 0.0
        if written_at > wall_now:
            self._observer.clock_skewed()
            return 0.0
        return wall_now - written_at


def _written_at(record: Record) -> float | None:
    return record.timestamp / 1000 if record.timestamp > 0 else None
