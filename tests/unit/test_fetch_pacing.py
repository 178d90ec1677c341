"""How long fetches wait at the broker, by the rate of records."""

from __future__ import annotations

import pytest

from fivestage.kafka.consumer.fetch_pacing import FULL_BYTES, FetchPacing, FetchWait

AT_ONCE = FetchWait(1, 100)
"""A fetch that waits for the first record only."""


def after(rate: float, *, linger_ms: int = 8, seconds: float = 5, idle_s: float = 0) -> FetchWait:
    """Return the wait chosen after *seconds* of single records at *rate* a second, and *idle_s* of none."""
    pacing, now = FetchPacing(max_wait_ms=100, linger_ms=linger_ms), 1000.0
    for number in range(int(rate * seconds)):
        pacing.note(1, now := 1000 + number / rate)
    return pacing.wait(now + idle_s)


@pytest.mark.parametrize(
    ("rate", "linger_ms"), [(10, None), (100, None), (200, 8), (350, 8), (1000, 3), (2500, 1), (20_000, None)]
)
def test_a_fetch_lingers_where_records_come_meanwhile(rate: int, linger_ms: int | None) -> None:
    """Fetches wait for about three records: not where none would come, nor where they come anyway."""
    wanted = AT_ONCE if linger_ms is None else FetchWait(FULL_BYTES, linger_ms)
    got = after(rate)
    assert got.min_bytes == wanted.min_bytes
    assert abs(got.max_wait_ms - wanted.max_wait_ms) <= 1


def test_it_can_be_switched_off() -> None:
    """With a linger of 0, brokers answer with the first record at any rate."""
    assert {after(rate, linger_ms=0) for rate in (10, 350, 3000, 20_000)} == {AT_ONCE}


def test_an_idle_consumer_asks_rarely() -> None:
    """Two seconds after the last record, an empty fetch waits five times as long."""
    assert after(350, idle_s=1.9) == AT_ONCE
    assert after(350, idle_s=2.1) == FetchWait(1, 500)
    assert FetchPacing(max_wait_ms=100, linger_ms=8).wait(1000.0) == FetchWait(1, 500)


def test_a_burst_does_not_linger_for_long() -> None:
    """The rate follows the load within about half a second."""
    pacing = FetchPacing(max_wait_ms=100, linger_ms=8)
    pacing.note(500, 1000.0)
    assert pacing.wait(1000.0).max_wait_ms == 3
    assert pacing.wait(1002.0) == AT_ONCE
