"""Interface of observers, such as the metrics: one method for each kind of event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.adaptive.breaker import BreakerState
    from fivestage.core.codec.decode import UnreadableReason
    from fivestage.core.codec.event_json import Envelope
    from fivestage.core.outcome import QueryOutcome
    from fivestage_schemas import Outcome, TimeoutReason


class ControlChange(NamedTuple):
    """A change in the behaviour of an adaptive control."""

    control: str
    """``breaker``, ``concurrency_limit``, ``stage_limit`` or ``node_choice``."""
    change: str
    """The new behaviour in a word: ``open``, ``lowered``, ``raised`` and the like."""
    why: str
    """The figures behind the change, such as ``14 of 20 calls failed in 1.2 s``."""
    lane: str = ""
    """Empty for all lanes."""
    subject: str = ""
    """The node or stage; empty for all of them."""


class Observer:
    """Does nothing; subclasses override what they need. Called on the bus loop; durations are seconds."""

    def received(self, count: int) -> None:
        """Records were fetched."""

    def concluded(self, query: Envelope, outcome: QueryOutcome, text: str) -> None:
        """A started query has ended; *text* is its user's input."""

    def expired(self, query: Envelope, reason: TimeoutReason) -> None:
        """A query was rejected before its start: too late for an answer, or suspected as a poison pill."""

    def unreadable(self, lane: str, reason: UnreadableReason, *, answered: bool) -> None:
        """A record became a dead letter; *answered*: its query id could be read: a result is published."""

    def published(self, topic: str, count: int, duration_s: float) -> None:
        """A batch of records was acknowledged."""

    def event_refused(self, error_type: str) -> None:
        """The broker rejected an event for its content: it is published without data, as *error_type*."""

    def throttled(self, client: str, duration_s: float) -> None:
        """The broker's quotas delayed a *client*, ``consumer`` or ``producer``."""

    def rebalanced(self) -> None:
        """Partitions were assigned."""

    def position_reset(self, reason: str, skipped: int) -> None:
        """A partition has no usable position: it is consumed as ``kafka.auto_offset_reset`` says.

        Args:
            reason: ``none``: there was no committed position; ``deleted``: the records at the position were
                deleted; ``beyond_end``: the position was above the highest offset.
            skipped: How many records were deleted before they were consumed.
        """

    def committed(self, partitions: int, duration_s: float) -> None:
        """Positions were committed."""

    def commit_failed(self, error_type: str) -> None:
        """A commit failed; it is retried with newer positions."""

    def client_rebuilt(self, client: str, reason: str) -> None:
        """A *client*, ``consumer`` or ``producer``, is being rebuilt; *reason* is one word."""

    def came_late(self) -> None:
        """An executor finished a query that had already ended; the late result was dropped."""

    def clock_skewed(self) -> None:
        """A record's timestamp lies in the future."""

    def shed(self, lane: str, *, refused: bool) -> None:
        """A query had less time than an answer takes; it was rejected, or only counted (*refused* False)."""

    def executor_replaced(self, reason: str) -> None:
        """A worker failed or had to be replaced, and another one took over."""

    def executor_stalled(self, name: str, where: str | None) -> None:
        """Code of node or stage *name* blocks an event loop, in the line *where*, if that is known.

        The name is empty for other code; without a line the loop may only have got no CPU.
        """

    def breaker_changed(self, lane: str, node: str, state: BreakerState) -> None:
        """The breaker of a node opened, half opened or closed."""

    def failed_over(self, lane: str, attempts: int) -> None:
        """*attempts* failed attempts of a query at processing were followed by another node."""

    def retried(self, lane: str, attempts: int) -> None:
        """*attempts* failed attempts of a query at processing were followed by a call of the same node."""

    def hedged(self, lane: str, outcome: Outcome) -> None:
        """A second node was called beside a slow one; *outcome* is skipped if the slow one answered first."""

    def control_changed(self, change: ControlChange) -> None:
        """An adaptive control changed."""


def fan_out(*observers: Observer) -> Observer:
    """Return an observer that hands each event to those of *observers* that handle it, in their order.

    Which do is found out once: an event that one observer handles costs no more than with it alone.
    """
    combined = Observer()
    for name in [name for name in vars(Observer) if not name.startswith("_")]:
        ignored = getattr(Observer, name)
        listeners = [getattr(one, name) for one in observers if getattr(type(one), name) is not ignored]
        if listeners:
            setattr(combined, name, listeners[0] if len(listeners) == 1 else _each(tuple(listeners)))
    return combined


def _each(listeners: tuple[Callable[..., None], ...]) -> Callable[..., None]:
    def call(*args: Any, **fields: Any) -> None:
        for listener in listeners:
            listener(*args, **fields)

    return call
