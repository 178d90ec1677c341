"""How long fetches wait at the broker, by the rate of records."""

from __future__ import annotations

import pytest

from fivestage.kafka.consumer.fetch_pacing import FULL_BYTES, FetchPacing, FetchWait

AT_ONCE = FetchWait(1, 100)
"""A fetch that waits for the first record only."""


def after(rate: int, *, linger_ms: int = 8, idle_s: float = 0, brokers: int = 1) -> FetchWait:
    """Return the wait chosen after five seconds of records at *rate* a second, and *idle_s* of none."""
    pacing, now = FetchPacing(max_wait_ms=100, linger_ms=linger_ms), 1000.0
    for number in range(5 * rate):
        pacing.note(1, now := 1000 + number / rate)
    return pacing.wait(now + idle_s, brokers)


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


def test_each_broker_has_its_part_of_the_records() -> None:
    """With three brokers, a third of the records comes from each."""
    assert after(350, brokers=3) == AT_ONCE
    assert after(1050, brokers=3).max_wait_ms == 8


def test_a_record_lingers_no_longer_than_an_empty_fetch_waits() -> None:
    """``fetch_max_wait_ms`` bounds both."""
    pacing = FetchPacing(max_wait_ms=5, linger_ms=8)
    pacing.note(200, 1000.0)
    assert pacing.wait(1000.0, 1) == FetchWait(FULL_BYTES, 5)


def test_a_fetch_after_an_empty_one_does_not_linger() -> None:
    """A rejected fetch is noticed by its early answer, so the next one asks for a long wait."""
    pacing = FetchPacing(max_wait_ms=100, linger_ms=8)
    pacing.note(200, 1000.0)
    pacing.note_fetch(brought_records=False)
    assert pacing.wait(1000.0, 1) == AT_ONCE
    pacing.note_fetch(brought_records=True)
    assert pacing.wait(1000.0, 1).min_bytes == FULL_BYTES


@pytest.mark.parametrize(
    ("max_wait_ms", "idle_ms"), [(1, 5), (20, 100), (100, 500), (400, 500), (3000, 3000)]
)
def test_an_idle_consumer_asks_rarely(max_wait_ms: int, idle_ms: int) -> None:
    """Two seconds after the last record an empty fetch waits five times as long, up to half a second."""
    pacing = FetchPacing(max_wait_ms=max_wait_ms, linger_ms=8)
    pacing.note(1, 1000.0)
    assert pacing.wait(1001.9, 1) == FetchWait(1, max_wait_ms)
    assert pacing.wait(1002.1, 1) == FetchWait(1, idle_ms)
    assert pacing.longest_ms == idle_ms
    pacing.note(0, 1002.2)
    assert pacing.wait(1002.3, 1) == FetchWait(1, max_wait_ms)


def test_a_burst_does_not_linger_for_long() -> None:
    """The rate follows the load within about half a second."""
    pacing = FetchPacing(max_wait_ms=100, linger_ms=8)
    pacing.note(500, 1000.0)
    assert pacing.wait(1000.0, 1).max_wait_ms == 3
    assert pacing.wait(1001.9, 1) == AT_ONCE
