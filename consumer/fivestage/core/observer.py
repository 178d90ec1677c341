"""What happens, told to whoever listens: metrics are observers, the core knows none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fivestage.core.adaptive.breaker import BreakerState
    from fivestage.core.codec.decode import UnreadableReason
    from fivestage.core.outcome import QueryOutcome
    from fivestage_schemas import TimeoutReason


class ControlChange(NamedTuple):
    """A control that learns from how queries end now treats the next ones differently."""

    control: str
    """``breaker``, ``concurrency_limit``, ``stage_limit`` or ``node_choice``."""
    change: str
    """What it does from now on, in a word: ``open``, ``lowered``, ``raised`` and the like."""
    why: str
    """The figures that made it change, in a few words, such as ``14 of 20 calls failed in 1.2 s``."""
    lane: str = ""
    """Empty where it concerns all lanes."""
    subject: str = ""
    """The node or stage that it concerns; empty where it concerns all of them."""


class Observer:
    """Listens. Called on the bus loop, so each method must be quick; durations are seconds."""

    def received(self, count: int) -> None:
        """Records came from the source."""

    def concluded(self, lane: str, outcome: QueryOutcome, queue_s: float) -> None:
        """A query that was started has ended; *queue_s* is how long it had waited."""

    def expired(self, lane: str, reason: TimeoutReason, queue_s: float) -> None:
        """A query was not started because its answer would come too late."""

    def unreadable(self, lane: str, reason: UnreadableReason, *, answered: bool) -> None:
        """A record became a dead letter, and its asker was told if the id could be read."""

    def published(self, topic: str, count: int, duration_s: float) -> None:
        """A batch of records was acknowledged."""

    def event_refused(self, error_type: str) -> None:
        """The broker refused an event for what it is: it is published without data, as *error_type*."""

    def throttled(self, client: str, duration_s: float) -> None:
        """The broker makes a client wait, by its quotas: ``consumer`` or ``producer``."""

    def rebalanced(self) -> None:
        """Partitions were assigned anew."""

    def position_reset(self, reason: str, skipped: int) -> None:
        """A partition is read from its earliest record on.

        Args:
            reason: ``none``: there was no position; ``deleted``: the records from there on were deleted;
                ``beyond_end``: there were never so many.
            skipped: How many records were deleted before they were read.
        """

    def committed(self, partitions: int, duration_s: float) -> None:
        """Positions were committed."""

    def commit_failed(self, error_type: str) -> None:
        """A commit did not go through; it is tried again with newer positions."""

    def client_rebuilt(self, client: str, reason: str) -> None:
        """A client of Kafka is being made anew: ``consumer`` or ``producer``, and why, in a word."""

    def came_late(self) -> None:
        """An executor delivered a query that had ended; what it brought was dropped."""

    def clock_skewed(self) -> None:
        """A record's timestamp lies in the future."""

    def shed(self, lane: str, *, refused: bool) -> None:
        """A query had less time than an answer takes; it was refused, or only would have been."""

    def executor_replaced(self, reason: str) -> None:
        """A worker died, or had to be replaced, and another took over."""

    def executor_stalled(self, name: str) -> None:
        """Code of node or stage *name* keeps an event loop from turning; an empty name for other code."""

    def breaker_changed(self, lane: str, node: str, state: BreakerState) -> None:
        """The breaker of a node opened, half opened or closed."""

    def failed_over(self, lane: str, attempts: int) -> None:
        """Processing was tried with so many nodes more."""

    def control_changed(self, change: ControlChange) -> None:
        """A control now treats queries differently."""
