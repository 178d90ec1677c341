"""The time that a rebalance waits for queries in flight."""

from __future__ import annotations

import pytest

from fivestage.service.drain import revoke_drain_s
from fivestage.settings import Settings


@pytest.mark.parametrize(
    ("total_ms", "rebalance_ms", "drain_s"),
    [
        pytest.param(250, 10_000, 1.0, id="a second at least"),
        pytest.param(1_000, 10_000, 1.75, id="a little longer than a query may run"),
        pytest.param(60_000, 10_000, 2.0, id="within the rebalance timeout"),
        pytest.param(60_000, 9_000, 1.0, id="within the shortest"),
        pytest.param(60_000, 120_000, 60.75, id="a long budget, where the group waits for it"),
    ],
)
def test_a_rebalance_waits_as_long_as_queries_may_run(
    total_ms: int, rebalance_ms: int, drain_s: float
) -> None:
    """A rebalance waits for the pipeline's total time; commits and the rejoin have the rest."""
    kafka = {"rebalance_timeout_ms": rebalance_ms, "request_timeout_ms": rebalance_ms + 3000}
    settings = Settings.model_validate({"kafka": kafka, "pipeline": {"total_timeout_ms": total_ms}})
    assert revoke_drain_s(settings) == drain_s


@pytest.mark.parametrize("total_ms", [1999, 2000, 2001, 4000])
def test_the_check_of_the_settings_knows_how_long_a_rebalance_waits(total_ms: int) -> None:
    """It warns where queries in flight would be cut off, and nowhere else."""
    settings = Settings.model_validate({"pipeline": {"total_timeout_ms": total_ms}})
    warned = any("kafka.rebalance_timeout_ms" in sentence for sentence in settings.conflicts())
    assert warned == (revoke_drain_s(settings) < total_ms / 1000)
