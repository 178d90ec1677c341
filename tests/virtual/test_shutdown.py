"""The time budget of a shutdown, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from fivestage.service.shutdown import TimeLeft

LIMIT_S = 15.0


def now() -> float:
    """Return the time of the loop."""
    return asyncio.get_running_loop().time()


async def test_the_end_is_in_time_whatever_hangs() -> None:
    """Steps that all hang take less than the whole budget together, and each gets a share."""
    left, began_at = TimeLeft(LIMIT_S), now()
    left.begin()
    for _ in range(20):
        step_s = left.share(3.0)
        assert 0 < step_s <= 3.0
        await asyncio.sleep(step_s)
    assert now() - began_at < LIMIT_S


async def test_a_step_has_its_own_limit() -> None:
    """Without a shutdown, and while time is plenty, a step has its own limit."""
    left = TimeLeft(LIMIT_S)
    assert left.share(100.0) == 100.0
    left.begin()
    assert left.share(2.0) == 2.0


@pytest.mark.parametrize(
    ("gone_s", "most_s", "got_s"), [(0, 5, 5), (0, 14, 11), (5, 10, 6), (13, 5, 1), (15, 5, 0), (20, 5, 0)]
)
async def test_a_drain_leaves_some_to_others(gone_s: float, most_s: float, got_s: float) -> None:
    """A step that must leave time to others gets the rest, but at least half."""
    left = TimeLeft(LIMIT_S)
    left.begin()
    await asyncio.sleep(gone_s)
    assert left.share(most_s, leaving_s=4.0) == pytest.approx(got_s)
