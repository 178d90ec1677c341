"""What is remembered of latency."""

from __future__ import annotations

import pytest

from fivestage.core.admission.latency import MEMORY, LatencyProfile


def test_what_was_long_ago_is_forgotten() -> None:
    """Of a latency that changed, nearly nothing is left after six times as many queries as are kept."""
    profile = LatencyProfile()
    for log_s in [-1.0] * int(20 * MEMORY) + [-3.0] * int(6 * MEMORY):
        profile.add(1, log_s)
    latency = profile.below(1)
    assert latency is not None
    assert latency.mean == pytest.approx(-3.0, abs=0.01)
    assert latency.samples == MEMORY
