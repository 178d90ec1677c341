"""Settings that are valid one by one but limit or contradict each other."""

from __future__ import annotations

from typing import Any

import pytest

from fivestage.errors import ConfigurationError
from fivestage.settings import Settings

CORES = 2


def found(**sections: Any) -> list[str]:
    """Return the settings that the messages are about."""
    sentences = Settings.model_validate(sections).conflicts(CORES)
    return [sentence.split(":")[0] for sentence in sentences]


def test_the_defaults_have_no_conflicts() -> None:
    """The defaults have no contradictions."""
    assert found() == []


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"pipeline": {"stage_timeouts_ms": {"intent": 251}}}, "pipeline.stage_timeouts_ms.intent"),
        ({"pipeline": {"total_timeout_ms": 119}}, "pipeline.stage_timeouts_ms.processing"),
        ({"shutdown": {"drain_timeout_ms": 249}}, "shutdown.drain_timeout_ms"),
        ({"shutdown": {"total_timeout_ms": 4999}}, "shutdown.drain_timeout_ms"),
        ({"executor": {"kind": "process", "workers": 3}}, "executor.workers"),
        ({"pipeline": {"total_timeout_ms": 2001}}, "kafka.rebalance_timeout_ms"),
        (
            {"kafka": {"rebalance_timeout_ms": 9000}, "pipeline": {"total_timeout_ms": 1001}},
            "kafka.rebalance_timeout_ms",
        ),
    ],
)
def test_each_conflict_is_named(sections: dict[str, Any], named: str) -> None:
    """Each contradiction gets one sentence, which starts with the setting."""
    assert found(**sections) == [named]


@pytest.mark.parametrize(
    "sections",
    [
        {"pipeline": {"stage_timeouts_ms": {"intent": 250}}},
        {"pipeline": {"total_timeout_ms": 120}},
        {"shutdown": {"drain_timeout_ms": 250}},
        {"shutdown": {"total_timeout_ms": 5000}},
        {"executor": {"kind": "process", "workers": 2}},
        {"executor": {"kind": "thread", "workers": 3}},
        {"pipeline": {"total_timeout_ms": 2000}},
    ],
)
def test_what_just_fits_is_no_conflict(sections: dict[str, Any]) -> None:
    """Settings at the boundary are accepted."""
    assert found(**sections) == []


@pytest.mark.parametrize("name", [".", "..", "a b", "a/b", "fr\u00e4gen", "a\nb", "x" * 250])
@pytest.mark.parametrize("topic", ["queries", "results", "dead_letters"])
def test_invalid_topic_names_are_rejected(topic: str, name: str) -> None:
    """Topic names that no broker accepts are rejected at once."""
    with pytest.raises(ConfigurationError, match="is not a valid topic name"):
        Settings.load(None, {"topics": {topic: name}})


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "...", "x" * 249])
def test_valid_topic_names_are_accepted(name: str) -> None:
    """Topic names that Kafka allows are accepted."""
    assert Settings.load(None, {"topics": {"queries": name}}).topics.queries == name
