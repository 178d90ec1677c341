"""Writes the events of each record in flight, with its trace and its metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fivestage.core.codec.event_json import Envelope
from fivestage.core.tuples import new
from fivestage.dispatch.in_flight import NO_HEADERS
from fivestage_schemas import headers as h

if TYPE_CHECKING:
    from fivestage.core.codec.decode import Unreadable
    from fivestage.core.codec.encode import Encoder
    from fivestage.core.job import Job
    from fivestage.core.observer import Observer
    from fivestage.core.outcome import QueryOutcome
    from fivestage.core.records import OutputRecord
    from fivestage.dispatch.in_flight import InFlightQuery
    from fivestage.observability.tracing import Tracing


class EventWriter:
    """Turns the end of a record into the events to publish.

    Args:
        encoder: Encodes the events.
        tracing: Begins the traces.
        observer: Counts the outcomes.
        default_lane: The lane of records whose lane is unknown.
    """

    def __init__(self, encoder: Encoder, tracing: Tracing, observer: Observer, *, default_lane: str) -> None:
        self._encoder = encoder
        self._tracing = tracing
        self._observer = observer
        self._default_lane = default_lane

    def begin(self, query: InFlightQuery, now: float, wall_now: float, queue_s: float) -> None:
        """Start the trace of a record, and set the envelope of its events.

        Args:
            query: The record.
            now: Monotonic seconds.
            wall_now: Seconds since the epoch.
            queue_s: The age of the record.
        """
        headers, record, query_id = query.headers, query.record, query.query_id
        query.trace = trace = self._tracing.begin(headers, record, query_id, wall_now)
        ids = headers.get(h.CE_CORRELATION_ID), headers.get(h.CE_ID)
        query.headers = NO_HEADERS
        lane = query.lane or self._default_lane
        query.envelope = new(
            Envelope, (record, query_id, lane, ids[0], ids[1], trace.headers, wall_now, now, queue_s)
        )

    def outcome(self, query: InFlightQuery, job: Job, outcome: QueryOutcome) -> list[OutputRecord]:
        """Return the events of a query that ran."""
        envelope = query.envelope
        if job.started_at > envelope.started_at:  # the job has waited in the executor
            envelope = envelope.after_wait(job.started_at - envelope.started_at)
        records, outcome = self._encoder.concluded(envelope, outcome)
        self._observer.concluded(envelope, outcome, job.query.user_input)
        query.trace.conclude(envelope, outcome)
        return records

    def rejection(self, query: InFlightQuery, now: float, wall_now: float) -> list[OutputRecord]:
        """Return the events of a query that was not started."""
        if query.has_trace:  # it has waited in the executor
            envelope, queue_s = query.envelope, query.queue_s
            query.envelope = envelope._replace(started_at=now, started_wall=wall_now, queue_s=queue_s)
        else:
            self.begin(query, now, wall_now, query.queue_s)
        self._observer.expired(query.envelope, query.cause.reason)
        query.trace.reject(query.envelope, "expired", str(query.cause.reason))
        return self._encoder.expired(query.envelope, query.budget, query.cause)

    def dead_letter(
        self, query: InFlightQuery, unreadable: Unreadable, wall_now: float
    ) -> list[OutputRecord]:
        """Return the dead letter of an unreadable record, and an answer if its query id can be read."""
        self.begin(query, 0.0, wall_now, 0.0)
        lane, answered = query.envelope.lane, unreadable.query_id is not None
        self._observer.unreadable(lane, unreadable.reason, answered=answered)
        query.trace.reject(query.envelope, "invalid_query", str(unreadable.reason))
        return self._encoder.unreadable(query.envelope, unreadable)
