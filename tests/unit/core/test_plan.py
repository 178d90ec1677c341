"""Plans."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivestage.core.plan import Plan
from fivestage_schemas import StageType


def test_defaults() -> None:
    """The default limits and critical stages are those of the contract."""
    plan = Plan.of()
    assert plan.total_s == 0.25
    assert [(spec.stage_type.value, spec.sequence, spec.limit_s, spec.critical) for spec in plan.stages] == [
        ("intent", 0, 0.05, True),
        ("decision", 1, 0.1, True),
        ("processing", 2, 0.12, True),
        ("validation", 3, 0.04, False),
        ("reflection", 4, 0.03, False),
    ]


def test_a_stage_that_is_not_named_keeps_its_limit() -> None:
    """Setting one limit keeps the others."""
    plan = Plan.of(stage_timeouts_ms={StageType.DECISION: 7})
    assert [spec.limit_s for spec in plan.stages] == [0.05, 0.007, 0.12, 0.04, 0.03]


@pytest.mark.parametrize(
    ("limits_ms", "fair_ms"),
    [([50, 100, 120, 40, 30], [50, 100, 100, 40, 30]), ([200, 200, 200, 40, 30], [200, 50, 50, 40, 30])],
)
def test_the_time_a_stage_can_rely_on(limits_ms: list[int], fair_ms: list[int]) -> None:
    """A stage can rely on its limit or the total less earlier limits, but at least a fifth of the total."""
    plan = Plan.of(stage_timeouts_ms=dict(zip(StageType, limits_ms, strict=True)))
    assert [spec.fair_share_s * 1000 for spec in plan.stages] == pytest.approx(fair_ms)


@given(critical=st.sets(st.sampled_from(StageType)))
def test_any_stages_may_be_critical(critical: set[StageType]) -> None:
    """Exactly the named stages are critical, also none and all."""
    assert {spec.stage_type for spec in Plan.of(critical=critical).stages if spec.critical} == critical


@pytest.mark.parametrize("limit", [0, -1])
@pytest.mark.parametrize("stage", [None, *StageType])
def test_limits_must_be_positive(stage: StageType | None, limit: int) -> None:
    """The total and each stage limit must be positive."""
    limits: dict[str, Any] = {"stage_timeouts_ms": {stage: limit}} if stage else {"total_timeout_ms": limit}
    with pytest.raises(ValueError, match="more than 0 ms"):
        Plan.of(**limits)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"stage_timeouts_ms": {"procesing": 100}}, "unknown stage in stage_timeouts_ms: 'procesing'"),
        ({"critical": ["intent", "procesing"]}, "unknown stage in critical: 'procesing'"),
        ({"critical": "intent"}, "unknown stage in critical: 'e', 'i', 'n', 't'"),
    ],
)
def test_a_stage_must_exist(wrong: dict[str, Any], said: str) -> None:
    """A misspelt stage is an error, which names the five: it would have no limit, or not be critical."""
    with pytest.raises(ValueError, match=f"^{said}; the stages are intent, decision, processing, "):
        Plan.of(**wrong)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [1, 0, 2, 3, 4], [0, 1, 2, 3, 4, 4], []])
def test_a_plan_has_the_five_stages_in_order(order: list[int]) -> None:
    """Missing, swapped, repeated and no stages are rejected."""
    stages = Plan.of().stages
    with pytest.raises(ValueError, match="five stages"):
        Plan(tuple(stages[place] for place in order), 0.25)


def test_a_plan_cannot_be_changed() -> None:
    """Plans are immutable: all queries share them."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Plan.of().total_s = 1  # type: ignore[misc]
