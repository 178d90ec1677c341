"""How long threads may keep the interpreter, as the executor in threads chooses by what runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from fivestage.executors import interpreter
from fivestage.executors.interpreter import SWITCH_INTERVAL_S, YIELDING_INTERVAL_S
from fivestage.executors.thread.executor import ThreadExecutor
from fivestage.executors.thread.worker import ThreadWorker
from support import contract_app
from support.contract_app import GATE
from support.jobs import until
from support.kinds import PLAN, Place

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.realtime, pytest.mark.interpreted]


@pytest.fixture(name="place")
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Start an executor in threads that is always busy, beside which no thread of the test runner counts."""
    monkeypatch.setattr(interpreter, "_YIELDING_THREADS", ("",))
    monkeypatch.setattr(interpreter, "BUSY", 0.0)
    monkeypatch.setattr(interpreter, "STILL_BUSY", 0.0)
    monkeypatch.setattr(interpreter, "MIN_OTHERS", -1.0)
    return Place(contract_app, "thread", tmp_path, monkeypatch)


def is_set_to(seconds: float) -> bool:
    """Return whether the interval is this one, to the microsecond."""
    return round(sys.getswitchinterval() * 1e6) == round(seconds * 1e6)


@pytest.mark.parametrize("node", ["blocks-def", "blocks"])
async def test_the_interval_follows_the_code_that_runs(place: Place, node: str) -> None:
    """It is short while a thread of the pool runs code, or a step does not give control back; else long."""
    before = sys.getswitchinterval()
    async with place.running(PLAN) as bus:
        await bus.ended(bus.submit("echo 1"))
        await until(lambda: is_set_to(YIELDING_INTERVAL_S))
        with place.gate(GATE).closed() as gate:
            job = bus.submit(node)
            await place.noted(node)
            await until(lambda: is_set_to(SWITCH_INTERVAL_S))
            gate.open()
            await bus.ended(job)
        await until(lambda: is_set_to(YIELDING_INTERVAL_S))
    assert is_set_to(before)


@pytest.mark.parametrize("busy", [True, False])
async def test_turns_are_long_only_in_a_busy_process(
    place: Place, monkeypatch: pytest.MonkeyPatch, *, busy: bool
) -> None:
    """The interval, and whether messages wait for their sender's round, depend on the CPU in use."""
    monkeypatch.setattr(interpreter, "BUSY", 0.0 if busy else 1e6)
    monkeypatch.setattr(interpreter, "STILL_BUSY", 0.0 if busy else 1e6)
    monkeypatch.setattr(interpreter, "MIN_OTHERS", -1.0)
    async with place.running(PLAN) as bus:
        sys.setswitchinterval(0.001)
        await bus.ended(bus.submit("echo 1"))
        await until(lambda: is_set_to(YIELDING_INTERVAL_S if busy else SWITCH_INTERVAL_S))
        assert isinstance(bus.executor, ThreadExecutor)
        for worker in bus.executor.workers:
            assert isinstance(worker, ThreadWorker)
            assert worker._inbox._waits_for_sender() is busy
