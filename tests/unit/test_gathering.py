"""How long records gather at the broker before the next fetch."""

from __future__ import annotations

import pytest

from fivestage.kafka.consumer.gathering import ENOUGH, LONGEST_S, Gathering


def fetches(per_second: float, seconds: float = 10.0) -> tuple[float, float]:
    """Fetch evenly spaced records; return records a fetch, and the longest that one has waited."""
    gathering, now, taken, count, longest_s = Gathering(0.0), 0.0, 0, 0, 0.0
    while now < seconds:
        ready = int(now * per_second) - taken
        if not ready:  # the broker answers when the next one comes
            now = (taken + 1.0001) / per_second
            ready = 1
        longest_s = max(longest_s, now - (taken + 1) / per_second)
        taken, count = taken + ready, count + 1
        gathering.took(ready, now)
        now += max(gathering.pause_s(now), 0.0005)
    return taken / count, longest_s


@pytest.mark.parametrize(("per_second", "records"), [(10, 1), (50, 1), (350, 3), (800, 4), (2000, 4)])
def test_records_a_fetch(per_second: float, records: float) -> None:
    """At a low rate each record is fetched at once; at a higher one about four share a fetch."""
    found, _ = fetches(per_second)
    assert found == pytest.approx(records, abs=1)


@pytest.mark.parametrize("per_second", [10, 101, 150, 350, 1500])
def test_no_record_waits_long(per_second: float) -> None:
    """A record waits for others no longer than the bound, and at high rates for a few others only."""
    _, longest_s = fetches(per_second)
    assert longest_s <= min(LONGEST_S, 2 * ENOUGH / per_second) + 1e-9


def test_a_backlog_is_fetched_without_pauses() -> None:
    """A fetch that brings many records is followed by the next one at once, and so is an empty one."""
    gathering = Gathering(0.0)
    for count in (500, 0):
        gathering.took(count, 0.001)
        assert gathering.pause_s(0.001) == 0.0


def test_a_record_after_a_pause_does_not_delay_the_next() -> None:
    """A single record after a second without any is not taken for the first of many."""
    gathering = Gathering(0.0)
    gathering.took(1, 1.0)
    assert gathering.pause_s(1.0) == 0.0
