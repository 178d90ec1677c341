"""Remembered latencies."""

from __future__ import annotations

import pytest

from fivestage.core.admission.latency import MEMORY, LatencyProfile, QueryWindow


def test_old_latencies_are_forgotten() -> None:
    """After six windows of queries almost nothing remains of an earlier latency."""
    profile = LatencyProfile()
    for log_s in [-1.0] * int(20 * MEMORY) + [-3.0] * int(6 * MEMORY):
        profile.add(1, log_s)
    latency = profile.below(1)
    assert latency is not None
    assert latency.mean == pytest.approx(-3.0, abs=0.01)
    assert latency.samples == MEMORY


def test_the_share_of_timeouts_is_that_of_all_that_ended() -> None:
    """Timeouts are among the queries that ended; a window without any has none."""
    window = QueryWindow()
    assert window.drop_share == 0
    window.ended, window.dropped = 8, 2
    assert window.drop_share == 0.25
