"""The pause after rejected fetches, in virtual time, over a scripted fetcher.

The mock broker delays rejected fetches itself, so this cannot be tested there.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fivestage.kafka.aiokafka_internals import back_off_failed_fetches


class Consumer:
    """A consumer that is also its own fetcher."""

    def __init__(self, *, takes_s: float, brings: bool) -> None:
        self._fetcher = self
        self._fetch_max_wait_ms = 100
        self._takes_s = takes_s
        self._brings = brings

    async def _proc_fetch_request(self, *_: object) -> bool:
        await asyncio.sleep(self._takes_s)
        return self._brings


def braked(*, takes_s: float, brings: bool) -> Any:
    """Build a fetcher with the pause installed."""
    consumer: Any = Consumer(takes_s=takes_s, brings=brings)
    back_off_failed_fetches(consumer, pause_s=0.1)
    return consumer


@pytest.mark.fault(39)
@pytest.mark.parametrize(
    ("takes_s", "brings", "expected_s"),
    [(0.001, False, 0.101), (0.001, True, 0.001), (0.1, False, 0.1), (0.1, True, 0.1)],
    ids=["refused", "brings records", "nothing new", "brings records late"],
)
async def test_only_what_is_refused_waits(takes_s: float, brings: bool, expected_s: float) -> None:  # noqa: FBT001
    """A fetch that returns early and empty is followed by a pause; other fetches are not delayed."""
    consumer = braked(takes_s=takes_s, brings=brings)
    clock = asyncio.get_running_loop().time
    started_at = clock()
    assert await consumer._proc_fetch_request("assignment", 1, "request") is brings
    assert clock() - started_at == pytest.approx(expected_s)


async def test_the_pause_ends_with_the_consumer() -> None:
    """A fetch cancelled during its pause ends as an empty one, as its fetcher expects."""
    consumer = braked(takes_s=0, brings=False)
    fetching = asyncio.create_task(consumer._proc_fetch_request())
    await asyncio.sleep(0.01)
    fetching.cancel()
    assert await fetching is False
