"""Hands the events of each record to the sink, and finishes the record after the acknowledgement."""

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
        """Publish *records*, or drop them once *is_wanted* is false; call *on_acked* when none is left."""


class Publisher:
    """Publishes events; once they are acknowledged, the offset of their record may be committed.

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
        """Publish all events of a record, unless its partition was revoked: the new owner answers."""
        self._slots.input_bytes -= query.size
        if query.offsets.closed:
            query.trace.acknowledged()
            self._progress.finished()
            return
        size = sum([len(record.value or b"") for record in records])
        if records[0].output is Output.DEAD_LETTERS:  # the key of a dead letter may be large
            size += len(records[0].key or b"")
        self._slots.hold(size)
        self._sink.publish(records, lambda: self._acknowledged(query, size), lambda: not query.offsets.closed)

    def _acknowledged(self, query: InFlightQuery, size: int) -> None:
        """Finish a record whose events are acknowledged or no longer wanted."""
        query.offsets.finish(query.record.offset)
        query.trace.acknowledged()
        self._progress.finished()
        if self._slots.let_go(size):
            self._on_memory_freed()
