"""Replacements of events that the broker rejects: the same model without data."""

from __future__ import annotations

import orjson
import pytest

from fivestage.core.codec.decode import Unreadable, UnreadableReason
from fivestage.core.codec.encode import Encoder
from fivestage.core.codec.refused_event import REFUSED, TOO_LARGE, name_of, without_data
from fivestage.core.records import Output, OutputRecord
from fivestage_schemas import PipelineResult, PipelineStatus, StageResult

from .samples import envelope
from .test_encode import large

ENCODER = Encoder(source="/s", max_record_bytes=1_000_000, max_dead_letter_bytes=1_000_000)
WHY = "INVALID_RECORD (code 87)"


def events() -> list[OutputRecord]:
    """Build five stage results, one with data, and the result."""
    return ENCODER.concluded(envelope(), large(data=500, answer=700))[0]


def instead_of(record: OutputRecord, error_type: str = REFUSED) -> OutputRecord:
    """Return the replacement."""
    found = without_data(record, error_type, WHY)
    assert found is not None
    return found


@pytest.mark.parametrize("error_type", [TOO_LARGE, REFUSED])
def test_a_result(error_type: str) -> None:
    """The replacement of a result is an error without answer and stage data, under the same key and id."""
    [*_, refused] = events()
    other = instead_of(refused, error_type)
    result = PipelineResult.model_validate_json(other.value or b"")
    assert (result.status, result.error_type) == (PipelineStatus.ERROR, error_type)
    assert (result.answer, result.confidence, result.degraded) == (None, None, False)
    assert WHY in (result.error or "")
    assert [stage.data for stage in result.stages] == [None] * 5
    assert result.stages[3].error_type == error_type
    assert dict(other.headers) == {**dict(refused.headers), "status": b"error"}
    assert (other.output, other.key) == (refused.output, refused.key)


def test_other_fields_stay() -> None:
    """All other fields of the result stay."""
    [*_, refused] = events()
    before, after = orjson.loads(refused.value or b""), orjson.loads(instead_of(refused).value or b"")
    changed = {"status", "answer", "confidence", "degraded", "error", "error_type", "stages"}
    assert list(before) == list(after)
    assert {name: before[name] for name in before.keys() - changed} == {
        name: after[name] for name in after.keys() - changed
    }


def test_a_stage_result() -> None:
    """A stage result loses its data only."""
    refused = events()[3]
    other = instead_of(refused)
    stage, before = (StageResult.model_validate_json(one.value or b"") for one in (other, refused))
    assert (stage.data, stage.error_type) == (None, REFUSED)
    assert stage.model_copy(update={"data": before.data, "error": None, "error_type": None}) == before
    assert (other.key, other.headers) == (refused.key, refused.headers)


def test_a_dead_letter() -> None:
    """A dead letter keeps the headers that name its record, and loses the record's content."""
    [letter] = ENCODER.unreadable(envelope(), Unreadable(UnreadableReason.NOT_JSON, "x"))
    other = instead_of(letter)
    assert (other.key, other.value, dict(other.headers)["dlq.truncated"]) == (None, None, b"true")
    assert all(name.startswith("dlq.") for name, _ in other.headers)
    assert name_of(letter) == name_of(other)


def test_an_event_without_data_has_no_replacement() -> None:
    """An event that has no data has no replacement."""
    [letter] = ENCODER.unreadable(envelope(), Unreadable(UnreadableReason.NOT_JSON, "x"))
    others = [instead_of(one) for one in (*events(), letter)]
    timeout = OutputRecord.of(Output.TIMEOUTS, b"key", b"{}", [])
    assert [without_data(one, REFUSED, WHY) for one in (timeout, *others)] == [None] * 8


def test_events_are_named_by_their_ids() -> None:
    """Dead letters have no id and are named by their record."""
    [letter] = ENCODER.unreadable(envelope(), Unreadable(UnreadableReason.NOT_JSON, "x"))
    record = envelope().record
    place = f"{record.topic}/{record.partition}/{record.offset}"
    assert name_of(letter) == place
    assert name_of(events()[5]) == f"{place}/result"
