"""The poller between fake source and fake dispatcher, with a clock that moves with each record."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from fivestage.core.observer import Observer
from fivestage.core.time_slice import SLICE_S
from fivestage.dispatch.poller import Poller

RECORDS = 100


class Always:
    """Back-pressure that always has room for a few records."""

    def has_room(self) -> bool:
        return True

    def room(self) -> int:
        return 1


@pytest.mark.interpreted
@pytest.mark.parametrize("brings", [1, 0], ids=["records", "nothing"])
async def test_fetches_that_are_ready(monkeypatch: pytest.MonkeyPatch, brings: int) -> None:
    """Fetches that find something ready, or fail at once, let the loop turn once in each time slice."""
    loop, spent_s, turns, left = asyncio.get_running_loop(), 0.0, 0, RECORDS
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + spent_s)

    def turn() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(turn)

    async def fetch(_: int) -> list[Any]:
        nonlocal spent_s, left
        spent_s += SLICE_S / 2
        left -= 1
        if not left:
            poller.stop()
        return [None] * brings

    source: Any = SimpleNamespace(fetch=fetch)
    dispatcher: Any = SimpleNamespace(dispatch=lambda _: None)
    poller = Poller(dispatcher, Always(), Observer())  # type: ignore[arg-type]
    loop.call_soon(turn)
    await poller.run(source)
    assert RECORDS // 3 <= turns <= RECORDS
