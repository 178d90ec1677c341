"""Audits the demo: derives from the records of the five topics alone how each input ended."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fivestage.cli.demo.questions import KIND_HEADER, KINDS
from fivestage.cli.rows import status_of
from fivestage_schemas import Outcome, PipelineResult, StageResult, StageType, TimeoutEvent
from fivestage_schemas import headers as h

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fivestage.core.records import Record

SLACK_MS: Final = 20.0
"""A query counts as late if it exceeds its budget by more than this: the machine is busy with the demo."""

COLUMNS: Final = ("sent", "success", "degraded", "error", "timeout", "expired", "dead letters")

Coordinates = tuple[int, int]
"""Partition and offset of an input."""
_NOWHERE: Final = (-1, -1)


@dataclass(slots=True)
class Audit:
    """The findings."""

    tallies: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """For each kind of input a count for each of COLUMNS."""
    problems: list[str] = field(default_factory=list)
    """Sentences about missing or surplus records; empty if everything adds up."""
    inputs: int = 0
    terminal_events: int = 0
    unreadable: int = 0
    """Inputs without a readable id: they have a dead letter and no result."""
    dead_letters: int = 0
    stage_results: int = 0
    timeouts: int = 0
    durations_ms: list[float] = field(default_factory=list)
    """Of the queries that were started; sorted."""
    in_budget: int = 0
    """How many of these ended within their budget and SLACK_MS."""

    @property
    def total(self) -> Counter[str]:
        """The sum of the tallies."""
        return sum(self.tallies.values(), Counter())

    def percentile_ms(self, share: float) -> float:
        """Return the duration that *share* of the queries did not exceed."""
        if not self.durations_ms:
            return 0.0
        return self.durations_ms[min(len(self.durations_ms) - 1, int(share * len(self.durations_ms)))]


def audit(topics: Mapping[str, Sequence[Record]], *, expected: int) -> Audit:
    """Count the records and report what does not add up.

    Args:
        topics: The records by topic, as the topics are named in the settings.
        expected: How many inputs were written.
    """
    found = Audit()
    results = [PipelineResult.model_validate_json(record.value or b"") for record in topics["results"]]
    _tally(found, topics, results)
    if found.inputs != expected:
        found.problems.append(f"{expected} records were written, {found.inputs} are on the topic of queries")
    _check_endings(found, topics, results)
    _check_stages(found, topics["stage_results"], results)
    _check_timeouts(found, topics["timeouts"], results)
    _measure(found, results)
    return found


def _tally(found: Audit, topics: Mapping[str, Sequence[Record]], results: list[PipelineResult]) -> None:
    kinds = {_at(record): _kind(record) for record in topics["queries"]}
    found.tallies.update({kind: Counter() for kind in KINDS if kind in kinds.values()})
    for kind in kinds.values():
        found.tallies[kind]["sent"] += 1
    for result in results:
        found.tallies[kinds.get(_source(result), "?")][status_of(result)] += 1
    for record in topics["dead_letters"]:
        found.tallies[kinds.get(_dead_letter_source(record), "?")]["dead letters"] += 1
    found.inputs, found.terminal_events = len(kinds), len(results)
    found.dead_letters = len(topics["dead_letters"])


def _check_endings(
    found: Audit, topics: Mapping[str, Sequence[Record]], results: list[PipelineResult]
) -> None:
    """Each input must have one terminal event; one dead letter instead if it has no readable id."""
    ends = Counter(_source(result) for result in results)
    letters = Counter(_dead_letter_source(record) for record in topics["dead_letters"])
    for record in topics["queries"]:
        at = _at(record)
        if (name := _name(record)) is None:
            found.unreadable += letters[at]
            _expect(found, f"the input without an id at {at}", "dead letter", letters[at], 1)
            _expect(found, f"the input without an id at {at}", "terminal event", ends[at], 0)
        else:
            _expect(found, name, "terminal event", ends[at], 1)
    for query_id, count in Counter(result.query_id for result in results).items():
        if count > 1:
            found.problems.append(f"{query_id}: {count} terminal events")
    if found.inputs != found.terminal_events + found.unreadable:
        found.problems.append("inputs are not terminal events plus unreadable ones")


def _check_stages(found: Audit, records: Sequence[Record], results: list[PipelineResult]) -> None:
    """Each query that was started must have five stage results, the others none."""
    stages: dict[str, list[int]] = defaultdict(list)
    for record in records:
        stage = StageResult.model_validate_json(record.value or b"")
        stages[stage.query_id].append(stage.sequence)
    found.stage_results = len(records)
    for result in results:
        wanted = len(StageType) if result.started_at is not None else 0
        _expect(found, result.query_id, "stage result", len(set(stages[result.query_id])), wanted)
        _expect(found, result.query_id, "stage result", len(stages.pop(result.query_id)), wanted)
    found.problems += [f"{query_id}: stage results without a terminal event" for query_id in stages]


def _check_timeouts(found: Audit, records: Sequence[Record], results: list[PipelineResult]) -> None:
    """Each query that timed out or expired must have a timeout event, the others none."""
    events = Counter(TimeoutEvent.model_validate_json(record.value or b"").query_id for record in records)
    found.timeouts = len(records)
    for result in results:
        attempts = [attempt for stage in result.stages for attempt in stage.attempts]
        late = any(attempt.outcome is Outcome.TIMEOUT for attempt in attempts)
        wanted = late or result.status in {"timeout", "expired"}
        if bool(events[result.query_id]) != wanted:
            found.problems.append(f"{result.query_id}: {events[result.query_id]} timeout events")


def _measure(found: Audit, results: Iterable[PipelineResult]) -> None:
    metrics = [result.metrics for result in results if result.started_at is not None]
    found.durations_ms = sorted(one.total_duration_ms for one in metrics)
    found.in_budget = sum(one.total_duration_ms <= one.budget_ms + SLACK_MS for one in metrics)


def _expect(found: Audit, name: str, what: str, count: int, wanted: int) -> None:
    text = f"{name}: {count or 'no'} {what}{'' if count == 1 else 's'}, expected {wanted}"
    if count != wanted and text not in found.problems:
        found.problems.append(text)


def _at(record: Record) -> Coordinates:
    return record.partition, record.offset


def _name(record: Record) -> str | None:
    """Return the id of an input: its key, which the producer took from its value."""
    return record.key.decode() if record.key else None


def _kind(record: Record) -> str:
    return dict(record.headers).get(KIND_HEADER, b"?").decode()


def _source(result: PipelineResult) -> Coordinates:
    return (result.source.partition, result.source.offset) if result.source else _NOWHERE


def _dead_letter_source(record: Record) -> Coordinates:
    headers = dict(record.headers)
    return int(headers[h.DLQ_PARTITION]), int(headers[h.DLQ_OFFSET])
