"""What was seen of a run: the events in its topics, commits, figures, endings."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from fivestage_schemas import PipelineResult

from .reading import Place, Positions, headers_of, place_of

if TYPE_CHECKING:
    from confluent_kafka import Message


@dataclass(frozen=True, slots=True)
class Terminal:
    """One record of the results topic."""

    query_id: str
    ce_id: str
    status: str
    source: Place
    """Where its query is."""
    at: Place
    """Where itself is."""
    key: bytes | None = None
    lane: str = "prod"
    rejected: bool = False
    """The record could not be read, but for its id."""
    answer: str = "null"
    """As JSON."""
    started_at: float | None = None
    """Seconds since 1970, as all points in time here; None when nothing was started."""
    finished_at: float = 0.0
    written_at: float = 0.0
    """The record's own timestamp."""
    budget_s: float = 0.25
    content: bytes = b""

    @classmethod
    def of(cls, message: Message) -> Terminal:
        """Read one."""
        value = message.value()
        assert isinstance(value, bytes)
        result = PipelineResult.model_validate_json(value)
        assert result.source is not None
        key = message.key()
        return cls(
            query_id=result.query_id,
            ce_id=headers_of(message)["ce_id"],
            status=result.status,
            source=(result.source.partition, result.source.offset),
            at=place_of(message),
            key=key.encode() if isinstance(key, str) else key,
            lane=result.lane,
            rejected=result.error_type == "invalid_query",
            answer=json.dumps(result.answer, sort_keys=True),
            started_at=result.started_at.timestamp() if result.started_at else None,
            finished_at=result.finished_at.timestamp(),
            written_at=message.timestamp()[1] / 1000,
            budget_s=result.metrics.budget_ms / 1000,
            content=value,
        )


class Letter(NamedTuple):
    """One record of the dead letters' topic."""

    source: Place
    at: Place

    @classmethod
    def of(cls, message: Message) -> Letter:
        """Read one."""
        headers = headers_of(message)
        return cls((int(headers["dlq.partition"]), int(headers["dlq.offset"])), place_of(message))


@dataclass
class Snapshot:
    """Committed positions, and the ends of the topics of answers, read just after them."""

    committed: Positions
    results_end: Positions
    letters_end: Positions = field(default_factory=dict)


class Sample(NamedTuple):
    """Figures of one instance at one moment."""

    instance: str
    in_flight: float
    """Queries that run."""
    unfinished: float
    """Records taken in and not acknowledged."""
    rss_mb: float = 0.0


class Ending(NamedTuple):
    """How an instance ended after it was told to."""

    instance: str
    took_s: float
    code: int
    began_at: float = 0.0


class Interval(NamedTuple):
    """From when to when, in seconds since 1970."""

    begin: float
    end: float


@dataclass
class History:
    """Everything that was seen of one run."""

    asked: set[str]
    """The ids of all queries, of those too that cannot be read but for their id."""
    asked_again: set[str] = field(default_factory=set)
    """Those that are in their topic more than once: brokers that are all killed may take a batch twice."""
    terminals: list[Terminal] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    rejects: set[Place] | None = None
    """Where the records are that cannot be read; None when nobody kept count."""
    snapshots: list[Snapshot] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    pauses: list[Interval] = field(default_factory=list)
    """When an instance was stopped: a query that ran then may end late."""
    starved: list[Interval] = field(default_factory=list)
    """When an instance waited for a processor: likewise."""
    outages: list[Interval] = field(default_factory=list)
    """When a broker was away: an event that was due then may be written late."""
