"""Events are valid by the models, equal to them field by field, and small enough."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from cloudevents.core.bindings import kafka as cloudevents
from hypothesis import given
from hypothesis import strategies as st

from fivestage.core.codec.decode import MAX_KEY_BYTES, Unreadable, UnreadableReason
from fivestage.core.codec.encode import Encoder, output_key
from fivestage.core.codec.event_json import EventJson, _ms
from fivestage.core.deadline import Budget
from fivestage.core.outcome import microseconds
from fivestage.core.records import NOT_FROM_KAFKA, Output, OutputRecord, PlainRecord
from fivestage.core.rejection_cause import EXPIRED, STALLED_TWICE, WOULD_EXPIRE, RejectionCause
from fivestage_schemas import (
    Attempt,
    AttemptKind,
    Outcome,
    PipelineMetrics,
    PipelineResult,
    PipelineStatus,
    Source,
    StageResult,
    TimeoutEvent,
    TimeoutScope,
)

from .samples import (
    ERROR,
    PROCESSING,
    REFLECTION,
    SKIPPED,
    STARTED_AT,
    STARTED_WALL,
    SUCCESS,
    TIMEOUT,
    VALIDATION,
    altered,
    concluded,
    ended,
    envelope,
    history_of,
    record,
    run_of,
    running_of,
)
from .test_outcome import histories

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel

    from fivestage.core.codec.event_json import Envelope
    from fivestage.core.outcome import QueryOutcome, TimeoutNote
    from fivestage.core.plan import Plan
    from fivestage.core.stage_history import StageHistory
    from fivestage.core.stage_run import StageRun

ENCODER = Encoder(source="/fivestage/group", max_record_bytes=1_000_000, max_dead_letter_bytes=1_000_000)


def records_of(encoder: Encoder, env: Envelope, end: QueryOutcome) -> list[OutputRecord]:
    """Return the records of a started query."""
    return encoder.concluded(env, end)[0]


MODELS: dict[Output, type[BaseModel]] = {
    Output.STAGE_RESULTS: StageResult,
    Output.RESULTS: PipelineResult,
    Output.TIMEOUTS: TimeoutEvent,
}


# The models, built independently


def ms(seconds: float) -> float:
    """Convert to milliseconds as in events."""
    return max(0.0, round(seconds * 1000, 3))


def wall(monotonic: float) -> datetime:
    """Convert to wall-clock time."""
    return datetime.fromtimestamp(STARTED_WALL + monotonic - STARTED_AT, UTC)


def parsed(raw: bytes | None) -> Any:
    """Parse a stage's returned data."""
    return None if raw is None else json.loads(raw)


def attempt_models(run: StageRun, earlier: Sequence[StageRun]) -> list[Attempt]:
    """Build the models of all attempts at a stage."""
    tried = [one for one in earlier if one.spec is run.spec] + [run] * (run.outcome is not SKIPPED)
    after = [None, *[one.outcome for one in tried]]
    return [
        Attempt(
            node=one.node,
            kind=AttemptKind(
                "first" if one.attempt == 1 else "failover" if before in {ERROR, TIMEOUT} else "resumed"
            ),
            outcome=one.outcome,
            duration_ms=ms(one.duration_s),
            timeout_ms=ms(one.granted_s),
            waited_ms=ms(one.waited_s),
        )
        for one, before in zip(tried, after, strict=False)
    ]


def stage_model(env: Envelope, run: StageRun, earlier: Sequence[StageRun] = ()) -> StageResult:
    """Build the StageResult of a run."""
    return StageResult(
        query_id=env.query_id,
        stage_type=run.spec.stage_type,
        sequence=run.spec.sequence,
        outcome=run.outcome,
        success=run.outcome == "success",
        timeout=run.outcome == "timeout",
        critical=run.spec.critical,
        data=parsed(run.data_json),
        error=run.error,
        error_type=run.error_type,
        node=run.node,
        attempt=run.attempt,
        attempts=attempt_models(run, earlier),
        duration_ms=ms(run.duration_s),
        timeout_ms=ms(run.granted_s),
        started_at=None if run.started_at is None else wall(run.started_at),
        lane=env.lane,
    )


def source_model(env: Envelope) -> Source:
    """Build the source of a query."""
    return Source(topic=env.record.topic, partition=env.record.partition, offset=env.record.offset)


def result_model(env: Envelope, end: QueryOutcome) -> PipelineResult:
    """Build the PipelineResult of a started query."""
    counts = {outcome: sum(run.outcome is outcome for run in end.runs) for outcome in Outcome}
    return PipelineResult(
        query_id=env.query_id,
        status=end.status,
        answer=parsed(end.answer_json),
        confidence=end.confidence,
        degraded=end.degraded,
        validated=end.validated,
        partial=end.partial,
        error=end.error,
        error_type=end.error_type,
        node=end.node,
        lane=env.lane,
        stages=[stage_model(env, run, end.earlier) for run in end.runs],
        metrics=PipelineMetrics(
            total_duration_ms=ms(end.duration_s),
            queue_ms=ms(env.queue_s),
            stage_durations={
                run.spec.stage_type.value: ms(run.duration_s)
                for run in end.runs
                if run.started_at is not None
            },
            stages_completed=counts[SUCCESS],
            stages_failed=counts[ERROR] + counts[TIMEOUT],
            stages_skipped=counts[SKIPPED],
            timeout_count=counts[TIMEOUT],
            budget_ms=ms(end.budget_s),
            within_budget=end.within_budget,
        ),
        started_at=wall(STARTED_AT),
        finished_at=wall(STARTED_AT + end.duration_s),
        source=source_model(env),
    )


def timeout_model(env: Envelope, end: QueryOutcome, note: TimeoutNote) -> TimeoutEvent:
    """Build the TimeoutEvent of a note."""
    return TimeoutEvent(
        query_id=env.query_id,
        scope=note.scope,
        reason=note.reason,
        stage_type=note.spec.stage_type if note.spec else None,
        node=note.node,
        limit_ms=ms(note.limit_s),
        elapsed_ms=ms(note.elapsed_s),
        completed=list(note.completed),
        lane=env.lane,
        occurred_at=wall(STARTED_AT + end.duration_s),
        source=source_model(env),
    )


def assert_same(value: bytes | None, expected: BaseModel) -> None:
    """Assert equal fields and values, with times to the microsecond."""
    raw = orjson.loads(value or b"")
    assert set(raw) == set(type(expected).model_fields)
    got = type(expected).model_validate_json(value or b"")
    tolerance = timedelta(microseconds=1)
    for name, field in got:
        want = getattr(expected, name)
        if isinstance(field, datetime) and isinstance(want, datetime):
            assert abs(field - want) <= tolerance
        elif name == "stages":
            for raw_stage, stage in zip(raw[name], want, strict=True):
                assert_same(orjson.dumps(raw_stage), stage)
        else:
            assert field == want, name
    if "metrics" in raw:
        assert set(raw["metrics"]) == set(PipelineMetrics.model_fields)


def models_of(env: Envelope, end: QueryOutcome) -> list[BaseModel]:
    """Build the events of a started query, in the order of the records."""
    return [
        *[stage_model(env, run, end.earlier) for run in end.runs],
        result_model(env, end),
        *[timeout_model(env, end, note) for note in end.timeouts],
    ]


def headers_of(item: OutputRecord) -> dict[str, str]:
    """Return the headers, and assert that none is repeated."""
    found = {name: value.decode() for name, value in item.headers}
    assert len(found) == len(item.headers)
    return found


def tried_thrice() -> StageHistory:
    """Build processing with a timed out node and an attempt lost to a move."""
    history = history_of(ended([SUCCESS] * 2))
    late = run_of(PROCESSING, TIMEOUT, at=STARTED_AT + 0.02, took_s=0.05, granted_s=0.05, node="first")
    history.fail_over(altered(late, waited_s=0.004))
    second = running_of(PROCESSING, at=STARTED_AT + 0.07, granted_s=0.04)
    history.start(altered(second, node="second", attempt=2))
    history = history.continued()
    history.answer_json, history.confidence = b"22", 0.75
    history.finish(run_of(PROCESSING, at=STARTED_AT + 0.08, node="second", attempt=3))
    for stage in (VALIDATION, REFLECTION):
        history.finish(run_of(stage, at=STARTED_AT + 0.09))
    return history


ENDS: dict[str, QueryOutcome] = {
    "success": concluded(history_of(ended([SUCCESS] * 5))),
    "degraded": concluded(history_of(ended([SUCCESS, SUCCESS, SUCCESS, ERROR, SUCCESS]))),
    "error": concluded(history_of(ended([SUCCESS, ERROR]))),
    "stage timeout": concluded(history_of(ended([SUCCESS, SUCCESS, TIMEOUT])), after_s=0.15),
    "total timeout": concluded(
        history_of(ended([SUCCESS] * 2), running_of(PROCESSING, at=STARTED_AT + 0.2, granted_s=0.05)),
        after_s=0.25,
    ),
    "nothing started": concluded(history_of([]), after_s=0.25),
    "answered by a third node": concluded(tried_thrice()),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_events_are_what_the_models_say(end: QueryOutcome) -> None:
    """Each field of each event of each kind of outcome equals the model's."""
    env = envelope(queue_s=0.0123)
    records = records_of(ENCODER, env, end)
    models = models_of(env, end)
    assert len(records) == len(models) == 6 + len(end.timeouts)
    for item, model in zip(records, models, strict=True):
        assert MODELS[item.output] is type(model)
        assert_same(item.value, model)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


@given(
    made=histories(), answer=json_values, data=json_values, error=text, node=text, queue_s=st.floats(-1, 1e6)
)
def test_events_of_arbitrary_histories(
    made: tuple[StageHistory, Plan], answer: Any, data: Any, error: str, node: str, queue_s: float
) -> None:
    """The events of arbitrary histories equal the models."""
    history, plan = made
    history.runs = [
        altered(
            run,
            data_json=orjson.dumps(data) if run.success else None,
            error=error,
            error_type="E",
            node=node,
            attempt=3,
        )
        for run in history.runs
    ]
    history.answer_json = orjson.dumps(answer)
    end, env = concluded(history, plan=plan), envelope(queue_s=queue_s)
    for item, model in zip(records_of(ENCODER, env, end), models_of(env, end), strict=True):
        assert_same(item.value, model)


# Headers and ids


def test_headers_of_the_contract() -> None:
    """CloudEvents 1.0 in binary mode, trace context, lane; the status on results only."""
    env = envelope(
        correlation_id="c-1",
        causation_id="ce-1",
        trace_headers=(("traceparent", b"00-1-2-01"), ("tracestate", b"a=1")),
    )
    records = records_of(ENCODER, env, ENDS["total timeout"])
    common = {
        "ce_specversion": "1.0",
        "ce_source": "/fivestage/group",
        "ce_subject": "q-1",
        "ce_time": "2025-06-15T15:06:40.750000Z",
        "ce_correlationid": "c-1",
        "ce_causationid": "ce-1",
        "content-type": "application/json",
        "traceparent": "00-1-2-01",
        "tracestate": "a=1",
        "lane": "canary",
    }
    expected = [
        *[
            {"ce_id": f"queries/3/42/stage_result/{n}", "ce_type": "fivestage.stage_result.v1", **common}
            for n in range(5)
        ],
        {"ce_id": "queries/3/42/result", "ce_type": "fivestage.result.v1", "status": "timeout", **common},
        {"ce_id": "queries/3/42/timeout", "ce_type": "fivestage.timeout.v1", **common},
    ]
    assert [headers_of(item) for item in records] == expected


def test_correlation_and_causation_by_default() -> None:
    """Without ids in the input, the query's id correlates and the record's coordinates are the cause."""
    headers = headers_of(records_of(ENCODER, envelope(), ENDS["success"])[0])
    assert headers["ce_correlationid"] == "q-1"
    assert headers["ce_causationid"] == "queries/3/42"


def test_stage_timeouts_have_different_ids() -> None:
    """Two late stages and the pipeline are three events with three ids."""
    runs = ended([SUCCESS, SUCCESS, SUCCESS, TIMEOUT])
    running = running_of(REFLECTION, at=STARTED_AT + 0.23, granted_s=0.02)
    end = concluded(history_of(runs, running), after_s=0.25)
    ids = [headers_of(item)["ce_id"] for item in records_of(ENCODER, envelope(), end)[6:]]
    assert ids == ["queries/3/42/timeout/3", "queries/3/42/timeout"]


def test_late_attempts_have_different_ids() -> None:
    """The first late attempt's id has no number; those of later attempts have theirs."""
    history = history_of(ended([SUCCESS] * 2))
    for attempt in (1, 2, 3):
        at = STARTED_AT + attempt * 0.02
        late = run_of(PROCESSING, TIMEOUT, at=at, took_s=0.02, granted_s=0.02, attempt=attempt)
        history.fail_over(altered(late, node=f"node-{attempt}"))
    records = records_of(ENCODER, envelope(), concluded(history, after_s=0.1))[6:]
    ids = [headers_of(item)["ce_id"] for item in records]
    assert ids == [f"queries/3/42/timeout/{end}" for end in ("2", "2/2", "2/3")]
    said = [TimeoutEvent.model_validate_json(item.value or b"") for item in records]
    assert [one.node for one in said] == ["node-1", "node-2", "node-3"]


@given(made=histories(), offset=st.integers(0, 2**63 - 1))
def test_ids_are_unique_and_depend_on_the_coordinates_only(
    made: tuple[StageHistory, Plan], offset: int
) -> None:
    """Ids depend only on the record's coordinates, so that readers can drop duplicates after a replay."""
    history, plan = made
    end = concluded(history, plan=plan)
    source = record(offset=offset)
    first = [headers_of(item)["ce_id"] for item in records_of(ENCODER, envelope(source), end)]
    later = envelope(source, query_id="other", lane="x", started_wall=STARTED_WALL + 99, correlation_id="y")
    again = [headers_of(item)["ce_id"] for item in records_of(ENCODER, later, end)]
    assert first == again
    assert len(set(first)) == len(first)
    assert all(found.startswith(f"queries/3/{offset}/") for found in first)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_events_are_read_by_the_cloudevents_library(end: QueryOutcome) -> None:
    """The CloudEvents library, an independent implementation, reads every event."""
    for item in records_of(ENCODER, envelope(), end):
        message = cloudevents.KafkaMessage(dict(item.headers), item.key, item.value or b"")
        event = cloudevents.from_binary_event(message)
        assert (event.get_id(), event.get_subject()) == (headers_of(item)["ce_id"], "q-1")
        assert (event.get_source(), event.get_specversion()) == ("/fivestage/group", "1.0")
        assert event.get_type() in {
            "fivestage.stage_result.v1",
            "fivestage.result.v1",
            "fivestage.timeout.v1",
        }
        assert event.get_time() == wall(STARTED_AT + end.duration_s)
        assert event.get_data() == json.loads(item.value or b"")
        assert event.get_extension("correlationid") == "q-1"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"k", b"k"),
        (b"\xff\x00", b"\xff\x00"),
        (None, b"q-1"),
        (b"", b""),
        (b"k" * MAX_KEY_BYTES, b"k" * MAX_KEY_BYTES),
        (b"k" * (MAX_KEY_BYTES + 1), b"q-1"),
    ],
)
def test_keys(key: bytes | None, expected: bytes) -> None:
    """Every event has the input's key byte for byte, or the query's id where the key cannot be repeated."""
    assert output_key(record(key=key), "q-1") == expected
    records = records_of(ENCODER, envelope(record(key=key)), ENDS["total timeout"])
    assert {item.key for item in records} == {expected}


# Queries that were not started


@pytest.mark.parametrize("of_use_ms", [2000.0, None])
@pytest.mark.parametrize("cause", [EXPIRED, WOULD_EXPIRE, STALLED_TWICE])
def test_expired(cause: RejectionCause, of_use_ms: float | None) -> None:
    """An expired query has one result and one queue timeout, with the cause and its deadline."""
    env = envelope(queue_s=2.5)
    result, timeout = ENCODER.expired(env, Budget(0.0, -0.5, 0.25, of_use_ms), cause)
    got = PipelineResult.model_validate_json(result.value or b"")
    assert (got.status, got.error_type, got.stages) == (PipelineStatus.EXPIRED, "expired", [])
    assert got.error == cause.text
    assert (got.answer, got.started_at, got.degraded) == (None, None, False)
    assert got.finished_at == wall(STARTED_AT)
    assert got.source == source_model(env)
    assert got.metrics == PipelineMetrics(
        total_duration_ms=0, queue_ms=2500, stage_durations={}, stages_completed=0, stages_failed=0,
        stages_skipped=0, timeout_count=0, budget_ms=0, within_budget=False,
    )  # fmt: skip
    assert set(orjson.loads(result.value or b"")) == set(PipelineResult.model_fields)
    expected = TimeoutEvent(
        query_id="q-1",
        scope=TimeoutScope.QUEUE,
        reason=cause.reason,
        limit_ms=of_use_ms or 250,
        elapsed_ms=2500,
        lane="canary",
        occurred_at=wall(STARTED_AT),
        source=source_model(env),
    )
    assert_same(timeout.value, expected)
    assert (headers_of(result)["status"], headers_of(result)["ce_id"]) == ("expired", "queries/3/42/result")
    assert headers_of(timeout)["ce_id"] == "queries/3/42/timeout"
    assert [item.output for item in (result, timeout)] == [Output.RESULTS, Output.TIMEOUTS]


def test_unreadable_without_id() -> None:
    """Without an id there is only a dead letter: the bytes unchanged, the provenance in headers."""
    source = record(b"\xff\x00raw", key=b"\x00key", timestamp=1234)
    (letter,) = ENCODER.unreadable(envelope(source), Unreadable(UnreadableReason.NOT_JSON, "not JSON"))
    assert (letter.output, letter.key, letter.value) == (Output.DEAD_LETTERS, b"\x00key", b"\xff\x00raw")
    assert headers_of(letter) == {
        "dlq.reason": "not_json",
        "dlq.detail": "not JSON",
        "dlq.topic": "queries",
        "dlq.partition": "3",
        "dlq.offset": "42",
        "dlq.timestamp": "1234",
    }


def test_unreadable_with_id() -> None:
    """With an id there is a terminal event too; the dead letter has a key only if the record had."""
    unreadable = Unreadable(UnreadableReason.INVALID_FIELD, "lane: wrong", "q-1")
    letter, result = ENCODER.unreadable(envelope(record(key=None)), unreadable)
    assert (letter.output, letter.key, result.key) == (Output.DEAD_LETTERS, None, b"q-1")
    got = PipelineResult.model_validate_json(result.value or b"")
    assert (got.query_id, got.status, got.error_type) == ("q-1", PipelineStatus.ERROR, "invalid_query")
    assert (got.error, got.stages) == ("invalid_field: lane: wrong", [])
    assert headers_of(result)["status"] == "error"
    assert headers_of(result)["ce_id"] == "queries/3/42/result"


def test_a_dead_letter_has_the_key_that_its_record_had() -> None:
    """A dead letter keeps the record's key or its absence, for replays to the same partition."""
    unreadable = Unreadable(UnreadableReason.INVALID_FIELD, "lane: wrong", "q-1")
    letter, result = ENCODER.unreadable(envelope(record(b"{}", key=None)), unreadable)
    assert (letter.key, result.key) == (None, b"q-1")


@pytest.mark.parametrize("value", [None, b""])
def test_dead_letters_of_nothing(value: bytes | None) -> None:
    """A tombstone stays a tombstone, and an empty value an empty one."""
    (letter,) = ENCODER.unreadable(envelope(record(value)), Unreadable(UnreadableReason.EMPTY_VALUE, "empty"))
    assert letter.value == value


def test_the_detail_of_a_dead_letter_is_bounded() -> None:
    """The detail has at most 512 characters, whatever its origin."""
    (letter,) = ENCODER.unreadable(envelope(), Unreadable(UnreadableReason.CORRUPT_RECORD, "x" * 9999))
    assert len(headers_of(letter)["dlq.detail"]) == 512


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(record(b"v" * 30_000), id="value"),
        pytest.param(record(b"v", key=b"k" * 30_000), id="key"),
        pytest.param(record(b"v" * 15_000, key=b"k" * 15_000), id="both"),
    ],
)
def test_dead_letters_too_large_for_their_topic(source: PlainRecord) -> None:
    """A dead letter too large for its topic is published without the bytes, and says so."""
    encoder = Encoder(source="/s", max_record_bytes=1_000, max_dead_letter_bytes=25_000)
    unreadable = Unreadable(UnreadableReason.TOO_LARGE, "too large")
    (letter,) = encoder.unreadable(envelope(source), unreadable)
    assert (letter.key, letter.value) == (None, None)
    assert headers_of(letter)["dlq.truncated"] == "true"
    assert letter.size <= 25_000


# Too large for the topics


def large(*, data: int, answer: int) -> QueryOutcome:
    """Build a success with this many bytes of data in validation and in the answer."""
    runs = ended([SUCCESS] * 5)
    runs[3] = run_of(VALIDATION, data_json=b'"' + b"d" * data + b'"')
    runs[2] = run_of(PROCESSING, data_json=b'"' + b"a" * answer + b'"', node="math")
    return concluded(history_of(runs, answer=b'"' + b"a" * answer + b'"'))


MAX = 30_000
SMALL = Encoder(source="/s", max_record_bytes=MAX, max_dead_letter_bytes=MAX)


def sorted_out(records: list[OutputRecord]) -> tuple[list[StageResult], PipelineResult]:
    """Encode, and assert that each event fits its topic."""
    assert all(item.size <= MAX for item in records)
    stages = [StageResult.model_validate_json(item.value or b"") for item in records[:5]]
    return stages, PipelineResult.model_validate_json(records[5].value or b"")


def test_a_result_that_fits_is_whole() -> None:
    """Nothing is left out below the limit."""
    stages, result = sorted_out(records_of(SMALL, envelope(), large(data=9_000, answer=4_000)))
    assert result.stages == stages
    assert (result.answer, stages[3].data) == ("a" * 4_000, "d" * 9_000)


@pytest.mark.parametrize(("less", "is_whole"), [(0, True), (1, False)])
def test_an_event_may_be_as_large_as_its_topic_takes(less: int, is_whole: bool) -> None:  # noqa: FBT001
    """An event may be exactly as large as its topic allows."""
    end = large(data=20_000, answer=10)
    largest = records_of(ENCODER, envelope(), end)[3].size
    encoder = Encoder(source="/fivestage/group", max_record_bytes=largest - less, max_dead_letter_bytes=MAX)
    stage = StageResult.model_validate_json(records_of(encoder, envelope(), end)[3].value or b"")
    assert (stage.data == "d" * 20_000) is is_whole


def test_a_time_at_the_very_beginning_of_a_second() -> None:
    """A time at the start of a second is right for a query that started in the middle of one."""
    event = EventJson(envelope())
    assert [event.time(STARTED_AT + s)[-10:] for s in (0.25, 0.5)] == [b"40.750000Z", b"41.000000Z"]


@pytest.mark.fault(24)
def test_a_result_too_large_loses_the_stages_data_first() -> None:
    """A result too large loses the stages' data first, which the stage results still have."""
    stages, result = sorted_out(records_of(SMALL, envelope(), large(data=20_000, answer=9_000)))
    assert (result.status, result.answer) == (PipelineStatus.SUCCESS, "a" * 9_000)
    assert [stage.data for stage in result.stages] == [None] * 5
    assert {stage.error_type for stage in result.stages} == {"result_too_large"}
    assert all(stage.success for stage in result.stages)
    assert stages[3].data == "d" * 20_000


@pytest.mark.fault(24)
def test_an_answer_too_large_is_an_error() -> None:
    """A result whose answer is too large is an error event that says so."""
    end = large(data=10, answer=31_000)._replace(degraded=True)
    records = records_of(SMALL, envelope(), end)
    stages, result = sorted_out(records)
    assert (result.status, result.error_type) == (PipelineStatus.ERROR, "result_too_large")
    assert (result.answer, result.confidence, result.degraded) == (None, None, False)
    assert headers_of(records[5])["status"] == "error"
    assert "30000" in (result.error or "")
    assert (stages[2].data, stages[2].success, stages[2].error_type) == (None, True, "result_too_large")
    assert stages[3].data == "d" * 10


@pytest.mark.fault(24)
@given(data=st.integers(0, 70_000), answer=st.integers(0, 40_000), key=st.integers(0, MAX_KEY_BYTES))
def test_no_event_is_larger_than_its_topic_takes(data: int, answer: int, key: int) -> None:
    """No event exceeds its topic's limit at any size near it, key included."""
    env = envelope(record(key=b"k" * key))
    stages, result = sorted_out(records_of(SMALL, env, large(data=data, answer=answer)))
    assert len(stages) == len(result.stages) == 5
    assert (result.answer is None) is (result.error_type == "result_too_large")


@pytest.mark.fault(24)
@pytest.mark.parametrize("data", range(MAX - 6000, MAX, 250))
def test_keys_and_headers_count(data: int) -> None:
    """A value that would fit by itself does not fit with the largest key."""
    env = envelope(record(key=b"k" * MAX_KEY_BYTES), correlation_id="c" * 1024)
    stages, _ = sorted_out(records_of(SMALL, env, large(data=data, answer=10)))
    assert (stages[3].data is None) is (stages[3].error_type == "result_too_large")


def test_size_counts_everything() -> None:
    """The size counts key, value, each header, and the framing."""
    assert OutputRecord.of(Output.RESULTS, None, None, []).size == 36 + 1
    headers = [("h", b"vv"), ("i", b"")]
    assert OutputRecord.of(Output.RESULTS, b"abc", b"12345", headers).size == 36 + 8 + 1 + 5 + 3


@pytest.mark.parametrize("after_s", [-1.5, -0.2, 0.0, 0.05, 0.2, 59.9, 86_400.0])
def test_times_in_another_second_than_the_beginning(after_s: float) -> None:
    """A stage's time is exact to the microsecond in any second."""
    env = envelope(started_wall=1_750_000_000.9, started_at=7.0)
    got = StageResult.model_validate_json(EventJson(env).stage(run_of(PROCESSING, at=7.0 + after_s)))
    assert got.started_at is not None
    assert got.started_at.timestamp() == pytest.approx(1_750_000_000.9 + after_s, abs=2e-6)


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), float("nan")])
def test_invalid_times_are_still_json(seconds: float) -> None:
    """Durations of a broken clock are still valid JSON."""
    run = altered(run_of(PROCESSING, data_json=b"1"), duration_s=seconds, granted_s=seconds)
    assert StageResult.model_validate_json(EventJson(envelope()).stage(run)).duration_ms == 0


# Queries without Kafka


def test_a_query_asked_directly_has_no_source() -> None:
    """A query asked directly has no coordinates."""
    env = envelope()
    direct = type(env)(NOT_FROM_KAFKA, "q-1", "prod", started_wall=STARTED_WALL, started_at=STARTED_AT)
    got = PipelineResult.model_validate_json(EventJson(direct).result(ENDS["success"], []))
    assert (got.source, got.status) == (None, PipelineStatus.SUCCESS)


def test_stage_data_is_embedded_as_it_was_encoded() -> None:
    """Stage data is encoded once, where it ran, and embedded unchanged."""
    raw = b'{"z":[1,2.50,"\xc3\xbc"],"a":null}'
    assert b'"data":' + raw + b"," in EventJson(envelope()).stage(run_of(PROCESSING, data_json=raw))


@given(seconds=st.floats(0, 1e6, exclude_min=True))
def test_times_are_rounded_as_within_budget_rounds_them(seconds: float) -> None:
    """What is within budget by its own rounding is so by the times in the event."""
    assert _ms(seconds) == b"%d.%03d" % divmod(microseconds(seconds), 1000)
