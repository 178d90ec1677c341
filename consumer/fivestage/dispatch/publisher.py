"""Hands the events of each record to the sink, and finishes the record when the broker has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from fivestage.core.records import Output

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fivestage.core.admission.slots import Slots
    from fivestage.core.records import OutputRecord
    from fivestage.dispatch.in_flight import InFlightQuery
    from fivestage.dispatch.progress import Progress


class EventSink(Protocol):
    """What the publisher needs of a sink."""

    def publish(
        self,
        records: Sequence[OutputRecord],
        on_acked: Callable[[], None],
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Publish *records*, unless they are no longer wanted by then; then call *on_acked*."""


class Publisher:
    """Publishes events, and allows the offset of their record to be committed once they are acknowledged.

    Args:
        sink: Takes the events.
        slots: Counts the bytes of records in flight and of unacknowledged events.
        progress: Counts the records in flight.
        on_memory_freed: Called when acknowledged events make room for more queries.
    """

    def __init__(
        self,
        sink: EventSink,
        slots: Slots[InFlightQuery],
        progress: Progress,
        *,
        on_memory_freed: Callable[[], None],
    ) -> None:
        self._sink = sink
        self._slots = slots
        self._progress = progress
        self._on_memory_freed = on_memory_freed

    def publish(self, query: InFlightQuery, records: list[OutputRecord]) -> None:
        """Publish all events of a record, unless its partition was revoked: the new owner answers then."""
        self._slots.input_bytes -= query.size
        if query.offsets.closed:
            query.trace.acknowledged()
            self._progress.finished()
            return
        size = sum([len(record.value or b"") for record in records])
        if records[0].output is Output.DEAD_LETTERS:  # its key may be as large as a record
            size += len(records[0].key or b"")
        self._slots.hold(size)
        self._sink.publish(records, lambda: self._acknowledged(query, size), lambda: not query.offsets.closed)

    def _acknowledged(self, query: InFlightQuery, size: int) -> None:
        """Finish a record whose events the broker has: its offset may be committed."""
        query.offsets.finish(query.record.offset)
        query.trace.acknowledged()
        self._progress.finished()
        if self._slots.let_go(size):
            self._on_memory_freed()
