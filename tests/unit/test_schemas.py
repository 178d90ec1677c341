"""The event models as readers and producers in Python use them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import fivestage_schemas as schemas
from fivestage_schemas import Event, PipelineResult, QueryEvent, StageResult, TimeoutEvent
from fivestage_schemas import headers as header_names

GOLDEN = Path(__file__).parents[1] / "golden"
MODELS: dict[str, type[Event]] = {
    "query_event": QueryEvent,
    "stage_result": StageResult,
    "pipeline_result": PipelineResult,
    "timeout_event": TimeoutEvent,
}


def golden(name: str) -> dict[str, Any]:
    """Load a sample."""
    sample: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    return sample


def test_each_event_has_a_sample() -> None:
    """Samples and events match one to one."""
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_samples_come_through_unchanged(name: str) -> None:
    """Parsing and writing a sample gives the same content: all fields, names and forms."""
    event = MODELS[name].model_validate_json((GOLDEN / f"{name}.json").read_bytes())
    assert json.loads(event.model_dump_json()) == golden(name)
    assert MODELS[name].model_validate(event.model_dump()) == event
    assert set(golden(name)) == set(MODELS[name].model_fields)


@pytest.mark.parametrize("name", MODELS)
def test_unknown_fields_are_ignored(name: str) -> None:
    """Fields of a later minor version are ignored."""
    event = MODELS[name].model_validate({**golden(name), "a_later_field": {"a": 1}})
    assert event == MODELS[name].model_validate(golden(name))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("version", ["2", 1, None, ""])
def test_other_versions_are_refused(name: str, version: Any) -> None:
    """Other versions are rejected: a breaking change has another version."""
    with pytest.raises(ValidationError, match="schema_version"):
        MODELS[name].model_validate({**golden(name), "schema_version": version})


@pytest.mark.parametrize("name", MODELS)
def test_events_are_values(name: str) -> None:
    """Events are immutable, and equal by value."""
    event = MODELS[name].model_validate(golden(name))
    assert event == MODELS[name].model_validate(golden(name))
    with pytest.raises(ValidationError, match="frozen"):
        event.schema_version = "1"  # type: ignore[misc]


REQUIRED = {
    "query_event": {"query_id", "user_input"},
    "stage_result": {
        "query_id", "stage_type", "sequence", "outcome", "success", "timeout", "critical", "lane",
    },
    "pipeline_result": {"query_id", "status", "lane", "metrics", "finished_at"},
    "timeout_event": {"query_id", "scope", "reason", "limit_ms", "elapsed_ms", "lane", "occurred_at"},
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_required_fields(name: str) -> None:
    """The required fields are fixed: one more would break a producer."""
    model = MODELS[name]
    assert {field for field, info in model.model_fields.items() if info.is_required()} == REQUIRED[name]
    least = {field: value for field, value in golden(name).items() if field in REQUIRED[name]}
    model.model_validate(least)
    for field in REQUIRED[name]:
        with pytest.raises(ValidationError, match=field):
            model.model_validate({key: value for key, value in least.items() if key != field})


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("query_event", {"query_id": ""}),
    ("query_event", {"query_id": "x" * 129}),
    ("query_event", {"query_id": "q 1"}),
    ("query_event", {"query_id": "q-1\n"}),
    ("query_event", {"user_input": "x" * 32769}),
    ("query_event", {"deadline": "2030-01-01T00:00:00"}),
    ("query_event", {"budget_ms": 0}),
    ("query_event", {"allow_partial": "yes"}),
    ("query_event", {"allow_partial": 1}),
    ("query_event", {"context": []}),
    ("query_event", {"lane": "a b"}),
    ("stage_result", {"stage_type": "thinking"}),
    ("stage_result", {"sequence": 5}),
    ("stage_result", {"sequence": -1}),
    ("stage_result", {"outcome": "maybe"}),
    ("stage_result", {"attempt": 0}),
    ("stage_result", {"duration_ms": -0.1}),
    ("stage_result", {"started_at": "2030-01-01T00:00:00"}),
    ("pipeline_result", {"status": "done"}),
    ("pipeline_result", {"confidence": 1.01}),
    ("pipeline_result", {"confidence": -0.01}),
    ("pipeline_result", {"source": {"topic": "t", "partition": -1, "offset": 0}}),
    ("pipeline_result", {"metrics": {}}),
    ("timeout_event", {"scope": "other"}),
    ("timeout_event", {"reason": "other"}),
    ("timeout_event", {"completed": ["other"]}),
]
"""By the name of a sample, fields with values that the contract forbids."""


@pytest.mark.parametrize(("name", "wrong"), WRONG)
def test_wrong_values_are_refused(name: str, wrong: dict[str, Any]) -> None:
    """Each bound and each set of words of the contract is enforced."""
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        MODELS[name].model_validate({**golden(name), **wrong})


def test_words_of_the_contract() -> None:
    """Readers branch on these words: one more or less is a new version."""
    words = {
        schemas.StageType: "intent decision processing validation reflection",
        schemas.Outcome: "success timeout error skipped",
        schemas.PipelineStatus: "success error timeout expired",
        schemas.TimeoutScope: "stage pipeline queue",
        schemas.TimeoutReason: "stage_timeout pipeline_timeout expired_before_start would_expire",
    }
    assert {kind: " ".join(kind) for kind in words} == words


def test_header_names() -> None:
    """Header names follow CloudEvents' Kafka binding and W3C Trace Context."""
    names = {value for name, value in vars(header_names).items() if name.isupper()}
    assert names == {
        "content-type", "application/json", "application/cloudevents",
        "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time",
        "ce_correlationid", "ce_causationid", "ce_expirytime",
        "traceparent", "tracestate", "lane", "status",
        "fivestage.stage_result.v1", "fivestage.result.v1", "fivestage.timeout.v1",
        "dlq.reason", "dlq.detail", "dlq.topic", "dlq.partition", "dlq.offset", "dlq.timestamp",
        "dlq.truncated", "dlq.replayed", "dlq.replayed-from",
    }  # fmt: skip


def test_schemas_are_light() -> None:
    """Reading results needs pydantic and no other dependency of the service."""
    heavy = {
        "aiokafka",
        "aiohttp",
        "orjson",
        "confluent_kafka",
        "opentelemetry",
        "prometheus_client",
        "structlog",
    }
    program = (
        "import sys, fivestage_schemas; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    imported = set(ended.stdout.split())
    assert "pydantic" in imported
    assert imported & {*heavy, "fivestage"} == set()
