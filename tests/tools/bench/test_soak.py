"""The soak's verdict."""

from __future__ import annotations

import pytest

pytest.importorskip("matplotlib", reason="the benchmarks' requirements are not installed")

from tools.bench.soak import Sample, growth


def sample(number: int, rss_mb: float) -> Sample:
    """Build a sample."""
    return Sample(number * 5.0, rss_mb, threads=11, files=13, tasks=10, objects=1, cpu=0.5, answered=1.0)


@pytest.mark.parametrize(("a_look_mb", "ok"), [(0.0, True), (0.01, True), (0.1, False)])
def test_growth_is_found(a_look_mb: float, ok: bool) -> None:  # noqa: FBT001
    """Memory that rises by more than a twentieth from the second to the last quarter is found."""
    samples = [sample(number, 80 + a_look_mb * number) for number in range(200)]
    assert growth(samples, "rss_mb").ok is ok
    assert growth(samples, "threads").ok
