from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from fivestage.cli.demo.audit import audit
from fivestage.cli.demo.questions import KIND_HEADER, KINDS, NO_ID, in_round, make_inputs
from fivestage.core.records import PlainRecord

if TYPE_CHECKING:
    from fivestage.core.records import Record

Topics = dict[str, list["Record"]]

NOW = "2026-01-01T00:00:00Z"
SOURCE = {"topic": "fivestage.queries", "partition": 0, "offset": 7}
METRICS = {
    "total_duration_ms": 1.5,
    "queue_ms": 0,
    "stage_durations": {},
    "stages_completed": 5,
    "stages_failed": 0,
    "stages_skipped": 0,
    "timeout_count": 0,
    "budget_ms": 250,
    "within_budget": True,
}
RESULT = {
    "query_id": "q-1",
    "status": "success",
    "answer": 22,
    "lane": "prod",
    "metrics": METRICS,
    "started_at": NOW,
    "finished_at": NOW,
    "source": SOURCE,
}
STAGES = ["intent", "decision", "processing", "validation", "reflection"]
TIMEOUT = {
    "query_id": "q-1",
    "scope": "stage",
    "reason": "stage_timeout",
    "limit_ms": 40,
    "elapsed_ms": 41,
    "lane": "prod",
    "occurred_at": NOW,
}


def record(value: dict[str, Any]) -> Record:
    """Build a record as on an output topic."""
    return PlainRecord("any", 0, 0, key=b"q-1", value=json.dumps(value).encode())


@pytest.fixture
def topics() -> Topics:
    """Build the topics after one successful query."""
    query = PlainRecord("q", 0, 7, key=b"q-1", value=b"{}", headers=[(KIND_HEADER, b"sum")])
    stages = [
        {
            "query_id": "q-1",
            "stage_type": stage,
            "sequence": sequence,
            "outcome": "success",
            "success": True,
            "timeout": False,
            "critical": True,
            "lane": "prod",
        }
        for sequence, stage in enumerate(STAGES)
    ]
    return {
        "queries": [query],
        "results": [record(RESULT)],
        "stage_results": [record(stage) for stage in stages],
        "timeouts": [],
        "dead_letters": [],
    }


def test_mix_is_repeatable() -> None:
    """A seed determines the questions; every kind is among them."""
    first = make_inputs(60, 1)
    assert [(one.kind, one.question) for one in first] == [(o.kind, o.question) for o in make_inputs(60, 1)]
    assert [one.question for one in first] != [one.question for one in make_inputs(60, 2)]
    assert {one.kind for one in make_inputs(len(KINDS), 5)} == set(KINDS)
    assert len(make_inputs(137, 1)) == 137


def test_rounds() -> None:
    """A repeated round has ids of that round; all else is as before."""
    first = make_inputs(60, 1)
    third = in_round(first, 3)
    for one, again in zip(first, third, strict=True):
        assert (again.kind, again.question) == (one.kind, one.question)
        if one.kind != NO_ID:
            assert again.query_id == f"{one.query_id}-3"
            wanted = {**json.loads(one.value), "query_id": again.query_id}
            assert json.loads(again.value) == wanted
        else:
            assert again == one


def test_audit_accepts(topics: Topics) -> None:
    """One query with one result and five stage results passes the audit."""
    found = audit(topics, expected=1)
    assert found.problems == []
    assert found.total == Counter(sent=1, success=1)


@pytest.mark.parametrize(
    ("topic", "times", "problem"),
    [
        ("results", 0, "q-1: no terminal events, expected 1"),
        ("results", 2, "q-1: 2 terminal events, expected 1"),
        ("stage_results", 0, "q-1: no stage results, expected 5"),
        ("stage_results", 2, "q-1: 10 stage results, expected 5"),
        ("queries", 0, "1 records were written, 0 are on"),
    ],
)
def test_audit_finds(topics: Topics, topic: str, times: int, problem: str) -> None:
    """Missing and duplicate records are found and named."""
    topics[topic] = topics[topic] * times
    assert any(found.startswith(problem) for found in audit(topics, expected=1).problems)


def test_audit_misses_timeout_event(topics: Topics) -> None:
    """A timeout event of a query that was in time is found."""
    topics["timeouts"] = [record(TIMEOUT)]
    assert audit(topics, expected=1).problems == ["q-1: 1 timeout events"]
