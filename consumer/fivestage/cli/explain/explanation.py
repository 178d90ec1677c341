"""Puts the events of one query together: what happened to it, when, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError

from fivestage.cli.timeline import Step, steps_of
from fivestage.core.codec.dead_letter import DeadLetter, Place, read_letter
from fivestage.core.records import Output
from fivestage.core.why import why
from fivestage_schemas import PipelineResult, StageResult, StageType, TimeoutEvent, TimeoutScope
from fivestage_schemas import headers as h

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fivestage.core.records import Record
    from fivestage.kafka.tools.query_search import Found


@dataclass(slots=True)
class Explanation:
    """What the events say about a query."""

    query_id: str
    result: PipelineResult | None = None
    copies: int = 0
    """How many records hold the result: more than one after a redelivery."""
    stages: list[StageResult] = field(default_factory=list)
    """Published on their own; the result has them too."""
    timeouts: list[TimeoutEvent] = field(default_factory=list)
    letter: DeadLetter | None = None
    asked_at_ms: int | None = None
    """The timestamp of the query's record; milliseconds since the epoch."""
    question: bytes | None = None
    """The value of the query's record."""
    published_at_ms: int | None = None
    trace_id: str | None = None
    events: list[Place] = field(default_factory=list)
    """The coordinates of its events."""
    searched: list[str] = field(default_factory=list)
    not_searched: list[str] = field(default_factory=list)

    @property
    def is_ended(self) -> bool:
        """Whether there is a terminal event, or a dead letter."""
        return self.result is not None or self.letter is not None

    @property
    def published_ms(self) -> float | None:
        """When the result was written, in milliseconds since the query's start; None if not known."""
        result = self.result
        if result is None or result.started_at is None or self.published_at_ms is None:
            return None
        return self.published_at_ms - result.started_at.timestamp() * 1000

    @property
    def steps(self) -> list[Step]:
        """The attempts at all stages."""
        return [] if self.result is None else steps_of(self.result)

    def why(self) -> str:
        """Return in words why the query ended as it did, or why there is no end."""
        if self.result is not None:
            queued = (one.reason for one in self.timeouts if one.scope is TimeoutScope.QUEUE)
            return why(self.result, next(queued, None))
        if self.letter is not None:
            return (
                f"the record could not be read as a query ({self.letter.reason}), and has no id to answer to"
            )
        if self.stages or self.timeouts:
            return "only some of its events were found; its result is missing"
        if self.asked_at_ms is not None:
            return "it was written, and no result was found: it waits, or its result is older than the search"
        return "no event was found"

    def as_json(self, *, show_text: bool) -> dict[str, Any]:
        """Return the explanation for programs; keys as in the service's ``/api/status``."""
        result, letter = self.result, self.letter
        found: dict[str, Any] = {"query_id": self.query_id, "found": self.is_ended, "why": self.why()}
        if result is not None:
            metrics = result.metrics
            found |= {
                "status": result.status,
                "degraded": result.degraded,
                "partial": result.partial,
                "error_type": result.error_type,
                "node": result.node,
                "lane": result.lane,
                "duration_ms": metrics.total_duration_ms,
                "budget_ms": metrics.budget_ms,
                "queue_ms": metrics.queue_ms,
                "started_at": result.started_at.isoformat() if result.started_at else None,
                "finished_at": result.finished_at.isoformat(),
                "published_ms": self.published_ms,
                "source": result.source.model_dump() if result.source else None,
                "attempts": [step._asdict() for step in self.steps],
                "copies": self.copies,
            }
        found["timeouts"] = [
            one.model_dump(mode="json", exclude={"query_id", "source"}) for one in self.timeouts
        ]
        if letter is not None:
            found["dead_letter"] = {"reason": letter.reason, "detail": letter.detail, "at": str(letter.place)}
        found |= {"trace_id": self.trace_id, "events": list(map(str, self.events))}
        found |= {"searched": self.searched, "not_searched": self.not_searched}
        return found | (self.text() if show_text else {})

    def text(self) -> dict[str, Any]:
        """Return what may be confidential: the question, its intent, the answer and the error."""
        result, question = self.result, self.question
        found = {} if question is None else {"question": question.decode(errors="replace")}
        if result is None:
            return found
        return found | {"intent": _intent(result), "answer": result.answer, "error": result.error}


def of_records(query_id: str, found: Found) -> Explanation:
    """Put together what a search has found."""
    explanation = Explanation(query_id)
    explanation.searched = [str(one) for one in found.searched]
    explanation.not_searched = list(found.not_searched)
    for record in found.events[Output.DEAD_LETTERS]:
        letter = read_letter(record)
        if isinstance(letter, DeadLetter):
            explanation.letter, explanation.question = letter, record.value
    for record in found.queries[-1:]:
        explanation.asked_at_ms, explanation.question = record.timestamp, record.value
    for output in (Output.RESULTS, Output.STAGE_RESULTS, Output.TIMEOUTS):
        for record in found.events[output]:
            _take(explanation, record.value or b"")
    for record in found.events[Output.RESULTS][-1:]:
        explanation.published_at_ms = record.timestamp
    records = [*found.queries, *(record for output in Output for record in found.events[output])]
    explanation.events = [Place(record.topic, record.partition, record.offset) for record in records]
    explanation.trace_id = next(filter(None, map(_trace_id, records)), None)
    return explanation


def of_lines(query_id: str, lines: Iterable[bytes]) -> Explanation:
    """Put together the events of a query in lines of JSON; other lines are ignored."""
    explanation, count = Explanation(query_id), 0
    for count, line in enumerate(lines, start=1):  # noqa: B007 - used after the loop
        if query_id.encode() in line:
            _take(explanation, line)
    explanation.searched = [f"{count} lines"]
    return explanation


def _take(explanation: Explanation, value: bytes) -> None:
    """Add an event, whatever kind it is; anything else is left out."""
    try:
        event = orjson.loads(value)
    except orjson.JSONDecodeError:
        return
    if not isinstance(event, dict) or event.get("query_id") != explanation.query_id:
        return
    try:
        if "status" in event:
            explanation.result = PipelineResult.model_validate(event)
            explanation.copies += 1
        elif "scope" in event:
            explanation.timeouts.append(TimeoutEvent.model_validate(event))
        elif "stage_type" in event:
            explanation.stages.append(StageResult.model_validate(event))
    except ValidationError:
        return


def _intent(result: PipelineResult) -> str | None:
    """Return the intent and the rule that found it, where the intent stage gives them."""
    data = next((stage.data for stage in result.stages if stage.stage_type is StageType.INTENT), None)
    intent, rule = (data.get("intent"), data.get("rule")) if isinstance(data, dict) else (data, None)
    if not isinstance(intent, str):
        return None
    return f"{intent} ({rule})" if isinstance(rule, str) else intent


def _trace_id(record: Record) -> str | None:
    """Return the trace id in the header ``traceparent``, W3C Trace Context."""
    parts = dict(record.headers).get(h.TRACEPARENT, b"").split(b"-")
    return parts[1].decode(errors="replace") if len(parts) > 1 else None
