"""The observer behind the status document: counts what happens, beside the metrics."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from fivestage.core.adaptive.breaker import BreakerState
from fivestage.core.observer import Observer
from fivestage.observability.status.blocked import BlockedLoops
from fivestage.observability.status.figures import RECENT_SLOTS, SLOT_S, Figures
from fivestage.observability.status.lag import LagHistory
from fivestage.observability.status.recent import RecentQueries

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fivestage.core.codec.decode import UnreadableReason
    from fivestage.core.codec.event_json import Envelope
    from fivestage.core.ledger import PartitionKey
    from fivestage.core.outcome import QueryOutcome
    from fivestage_schemas import TimeoutReason

MAX_BREAKERS: Final = 1024


class StatusRecorder(Observer):
    """Keeps the figures of the last hour, the last slow and failed queries, and when breakers changed.

    Args:
        show_text: Keep what the users asked (``admin.show_text``).
        wall_clock: Seconds since the epoch.
    """

    def __init__(self, *, show_text: bool = False, wall_clock: Callable[[], float] = time.time) -> None:
        self.wall_clock = wall_clock
        self.figures = Figures()
        self.recent = RecentQueries(show_text=show_text)
        self.lag = LagHistory(SLOT_S)
        self.replaced = 0
        """Workers that were replaced."""
        self.blocked = BlockedLoops()
        self.open_since: dict[tuple[str, str], float] = {}
        """When the breaker of a lane and node was last closed (seconds since the epoch), unless it is."""
        self.closed = 0
        """How many slots have been closed."""

    def concluded(self, query: Envelope, outcome: QueryOutcome, text: str) -> None:
        """See Observer."""
        if not self.figures.concluded(query.lane, outcome):
            self.recent.look(query, outcome, text)

    def expired(self, query: Envelope, reason: TimeoutReason) -> None:
        """See Observer."""
        self.figures.unstarted(reason)
        self.recent.look_at_unstarted(query, reason)

    def unreadable(self, lane: str, reason: UnreadableReason, *, answered: bool) -> None:  # noqa: ARG002
        """See Observer."""
        self.figures.unreadable(answered=answered)

    def executor_replaced(self, reason: str) -> None:  # noqa: ARG002
        """See Observer."""
        self.replaced += 1

    def executor_stalled(self, name: str, where: str | None) -> None:
        """See Observer."""
        self.blocked.add(name, where, self.wall_clock())

    def breaker_changed(self, lane: str, node: str, state: BreakerState) -> None:
        """See Observer."""
        if state is BreakerState.CLOSED:
            self.open_since.pop((lane, node), None)
            return
        self.open_since.setdefault((lane, node), self.wall_clock())
        if len(self.open_since) > MAX_BREAKERS:
            del self.open_since[next(iter(self.open_since))]

    def close_slot(self, now: float, *, running: int, lags: Mapping[PartitionKey, int]) -> None:
        """End a slot of SLOT_S.

        Args:
            now: Monotonic seconds.
            running: How many queries run.
            lags: How many records of each partition were not taken in yet.
        """
        self.lag.add(now, lags)
        started_at = self.wall_clock() - SLOT_S
        self.figures.close_slot(started_at=started_at, running=running, lag=sum(lags.values()))
        self.blocked.close_slot()
        self.closed += 1
        if self.closed % RECENT_SLOTS == 0:
            self.recent.forget(now)
