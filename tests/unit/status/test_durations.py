"""Percentiles of counted durations, against the exact ones."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivestage.observability.status.durations import (
    BUCKETS,
    LONGEST_S,
    SHORTEST_S,
    RollingCounts,
    bucket_of,
    percentiles_ms,
    total_s,
)

ERROR = 0.05


def counted(durations_s: list[float]) -> list[int]:
    """Return the counts of all buckets."""
    counts = [0] * BUCKETS
    for seconds in durations_s:
        counts[bucket_of(seconds)] += 1
    return counts


@given(st.lists(st.floats(SHORTEST_S, LONGEST_S), min_size=1, max_size=200))
def test_percentiles_are_near_the_exact_ones(durations_s: list[float]) -> None:
    """Each percentile is within 5 % of the duration of that rank."""
    shares = (0.5, 0.95, 0.99)
    exact = [sorted(durations_s)[ceil(share * len(durations_s)) - 1] for share in shares]
    got = percentiles_ms(counted(durations_s), shares)
    assert got == [pytest.approx(seconds * 1000, rel=ERROR, abs=0.0006) for seconds in exact]


@pytest.mark.parametrize("seconds", [0.0, -1.0, SHORTEST_S / 2])
def test_very_short_durations_are_counted(seconds: float) -> None:
    """No time, or a clock that was moved back, is the shortest duration."""
    assert bucket_of(seconds) == 0


@pytest.mark.parametrize("seconds", [LONGEST_S * 2, 1e9, float("inf")])
def test_very_long_durations_are_counted(seconds: float) -> None:
    """What is longer than all buckets is in the last one."""
    assert bucket_of(seconds) == BUCKETS - 1


def test_no_durations_have_no_percentiles() -> None:
    """None, rather than 0 ms."""
    assert percentiles_ms([0] * BUCKETS, (0.5, 0.99)) == [None, None]


@given(st.lists(st.lists(st.integers(0, 4), max_size=5), min_size=1, max_size=12))
def test_the_total_is_that_of_the_last_slots(slots: list[list[int]]) -> None:
    """Whatever is counted in which slot: older slots no longer count."""
    rolling = RollingCounts(3, 5)
    for filled in slots:
        for outcome in filled:
            rolling.current[BUCKETS + outcome] += 1
        rolling.close_slot()
    last = [outcome for filled in slots[-3:] for outcome in filled]
    assert rolling.total()[BUCKETS:] == [last.count(outcome) for outcome in range(5)]
    assert rolling.is_empty == (not last)


@given(st.lists(st.floats(SHORTEST_S, LONGEST_S), max_size=200))
def test_the_sum_is_near_the_exact_one(durations_s: list[float]) -> None:
    """The sum of all durations is within 5 %; outcomes behind the buckets are not durations."""
    assert total_s([*counted(durations_s), 1000]) == pytest.approx(sum(durations_s), rel=ERROR)
