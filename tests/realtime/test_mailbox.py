"""Messages from one event loop to another."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import Any

import pytest

from fivestage import Plan, Query
from fivestage.core.job import Job
from fivestage.core.time_slice import SLICE_S
from fivestage.executors.mailbox import Mailbox

pytestmark = pytest.mark.realtime
PLAN = Plan.of()


async def test_messages_are_handled_in_slices() -> None:
    """Other callbacks of the loop run between messages that are slow to handle."""
    loop, order = asyncio.get_running_loop(), []

    def slow(_: Job) -> None:
        order.append("message")
        end = time.monotonic() + 2 * SLICE_S
        while time.monotonic() <= end:  # longer than a slice on any machine
            pass

    def tick() -> None:
        order.append("tick")
        if order.count("message") < 5:
            loop.call_soon(tick)

    mailbox = Mailbox(loop)
    for _ in range(5):
        mailbox.put(slow, Job(Query("q", "text"), PLAN, started_at=0.0, ends_at=1.0))
    loop.call_soon(tick)
    async with asyncio.timeout(20):
        while order.count("message") < 5:
            await asyncio.sleep(0)
    assert [pair for pair in pairwise(order) if pair == ("message", "message")] == []


async def test_a_message_that_raises_stops_no_other() -> None:
    """Messages after one that raises are handled in a later turn."""
    loop, got = asyncio.get_running_loop(), list[int]()
    loop.set_exception_handler(lambda *_: None)
    mailbox = Mailbox(loop)
    mailbox.put(got.remove, 7)
    for number in range(2):
        mailbox.put(got.append, number)
    for _ in range(3):
        await asyncio.sleep(0)
    assert got == [0, 1]


async def test_a_turn_of_the_sender_wakes_the_other_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver is woken once per turn of the sender, with all messages of that turn."""
    other, here = asyncio.new_event_loop(), asyncio.get_running_loop()
    woken: list[Any] = []
    monkeypatch.setattr(other, "call_soon_threadsafe", woken.append)
    mailbox = Mailbox(other, sender=here)
    got: list[int] = []
    for turn in (1, 2):
        for number in range(3):
            mailbox.put(got.append, number)
        assert len(woken) == turn - 1
        await asyncio.sleep(0)
        assert len(woken) == turn
        woken[-1]()
    other.close()
    assert got == [0, 1, 2] * 2


async def test_a_sender_with_short_turns_wakes_the_other_loop_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The receiver is woken by the first message while the sender's turns are short."""
    other, here = asyncio.new_event_loop(), asyncio.get_running_loop()
    woken: list[Any] = []
    monkeypatch.setattr(other, "call_soon_threadsafe", woken.append)
    mailbox = Mailbox(other, sender=here, waits_for_sender=lambda: False)
    for number in range(3):
        mailbox.put(print, number)
    other.close()
    assert len(woken) == 1
