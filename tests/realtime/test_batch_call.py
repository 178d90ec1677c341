"""Batch nodes in every kind of executor: threads, cancellation, blocked loops, moves, the stop."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from fivestage_schemas import Outcome
from support import batch_app
from support.batch_app import GATE, SIZE
from support.jobs import answer_of, node_run, until
from support.kinds import PLAN, STALL_S, Place

if TYPE_CHECKING:
    from pathlib import Path

    from fivestage.core.job import Job
    from support.jobs import Bus

pytestmark = pytest.mark.realtime
JOBS = 100


@pytest.fixture(params=["inline", "thread", "process"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Start an executor of each kind."""
    return Place(batch_app, request.param, tmp_path, monkeypatch)


beside_the_bus = pytest.mark.parametrize("place", ["thread", "process"], indirect=True)
"""For code that blocks its event loop, which in the ``inline`` executor is the service's."""


def names_left(bus: Bus) -> list[str]:
    """Return the nodes of abandoned code."""
    return [left.name for left in bus.executor.abandoned()]


async def a_batch(bus: Bus, place: Place, node: str) -> list[Job]:
    """Submit a full batch, and wait until its node has been called."""
    before = len(place.notes(node))
    jobs = [bus.submit(node) for _ in range(SIZE)]
    await until(lambda: len(place.notes(node)) > before, f"the node {node} is called")
    for job in jobs:
        await bus.processing(job)
    return jobs


@pytest.mark.parametrize("node", ["echo", "echo-def"])
async def test_every_query_gets_its_own_answer(place: Place, node: str) -> None:
    """Many are answered by few calls; an exception ends its own query; each batch is counted once."""
    async with place.running(PLAN) as bus:
        jobs = [bus.submit(f"{node} {number}") for number in range(JOBS)]
        bad = bus.submit(f"{node} bad")
        await bus.ended(*jobs, bad)
    assert [answer_of(job) for job in jobs] == [
        b'"%s %d"' % (node.encode(), number) for number in range(JOBS)
    ]
    assert (node_run(bad).outcome, node_run(bad).error_type) == (Outcome.ERROR, "ValueError")
    assert (node_run(bad).where or "").startswith(batch_app.__file__)
    sizes = [int(line.split()[1]) for line in place.notes("answers")]
    assert sum(sizes) == JOBS + 1
    assert len(sizes) < JOBS / 2
    assert sum(node_run(job).counted for job in [*jobs, bad]) == len(sizes)


@pytest.mark.parametrize(
    ("node", "found"),
    [
        ("uses", b'["client",1]'),
        ("uses-def", b'"model"'),
        ("misuses-def", "ResourceError"),
        ("short", "NodeError"),
        ("short-def", "NodeError"),
        ("exits-def", "SystemExit"),
    ],
)
async def test_resources_and_failures(place: Place, node: str, found: bytes | str) -> None:
    """Resources are used as in any node; what a call raises or misses is the error of its queries."""
    async with place.running(PLAN) as bus:
        job = await bus.ask(node)
        assert answer_of(await bus.ask("echo after")) == b'"echo after"'
    assert (node_run(job).error_type or node_run(job).data_json) == found


async def test_the_last_query_to_end_cancels_the_batch(place: Place) -> None:
    """Until then it runs on; cancelled, it cleans up, and counts as abandoned until it has ended."""
    async with place.running(PLAN) as bus:
        first, *others = await a_batch(bus, place, "waits")
        bus.give_up(first)
        assert answer_of(await bus.ask("echo between")) == b'"echo between"'
        assert place.notes("cleaned up") == []
        for job in others:
            bus.give_up(job)
        await place.noted("cleaned up")
        await until(lambda: not bus.executor.abandoned(), "nothing runs on")
        again = await a_batch(bus, place, "waits")
        for job in again:
            bus.give_up(job)
        await place.noted("cleaned up", 2)


@pytest.mark.parametrize("node", ["ignores", "waits-def"])
async def test_abandoned_batches_are_counted_until_they_end(place: Place, node: str) -> None:
    """One call is listed by the node's name, on the loop or in a thread, until it ends."""
    async with place.running(PLAN) as bus:
        with place.gate(GATE).closed() as gate:
            for job in await a_batch(bus, place, node):
                bus.give_up(job)
            await until(lambda: names_left(bus) == [node], "it is counted, once")
            assert answer_of(await bus.ask("echo after")) == b'"echo after"'
            gate.open()
            await until(lambda: not bus.executor.abandoned(), "nothing runs on")


@beside_the_bus
async def test_queries_behind_a_blocked_loop_move_and_form_a_batch_there(place: Place) -> None:
    """Those of a batch that waits are restarted elsewhere, together."""
    async with place.running(PLAN, stall_s=STALL_S) as bus:
        with place.gate(GATE).closed() as gate:
            moved = await a_batch(bus, place, "naps")
            blocking = bus.submit("blocks-alone")
            await bus.ended(*moved)
            gate.open()
            await bus.ended(blocking)
            await until(lambda: not bus.executor.abandoned(), "nothing runs on")
    assert [answer_of(job) for job in moved] == [b"2"] * SIZE
    assert Counter(place.notes("naps")) == {"naps 1": 1, "naps 2": 1}
    assert sum(node_run(job).counted for job in moved) == 1


@beside_the_bus
async def test_a_call_in_a_thread_goes_on_while_its_loop_is_blocked(place: Place) -> None:
    """In threads the next loop takes over the call and its answers; in processes it is restarted."""
    async with place.running(PLAN, stall_s=STALL_S) as bus:
        with place.gate("other").closed() as other, place.gate(GATE).closed() as gate:
            moved = await a_batch(bus, place, "waits-def")
            blocking = bus.submit("blocks-alone other")
            await until(lambda: all(job.place is not blocking.place for job in moved), "they have moved")
            gate.open()
            await bus.ended(*moved)
            assert blocking not in bus.finished
            other.open()
            await bus.ended(blocking)
            await until(lambda: not bus.executor.abandoned(), "nothing runs on")
        assert answer_of(await bus.ask("echo after")) == b'"echo after"'
    attempt = 1 if place.kind == "thread" else 2
    assert [answer_of(job) for job in moved] == [b"%d" % attempt] * SIZE
    assert [node_run(job).attempt for job in moved] == [attempt] * SIZE
    assert place.notes("waits-def") == ["waits-def"] * attempt


@beside_the_bus
async def test_a_batch_that_blocks_its_loop(place: Place) -> None:
    """It is named, its first query waits for it, and the others are answered elsewhere."""
    async with place.running(PLAN, stall_s=STALL_S) as bus:
        with place.gate(GATE).closed() as gate:
            jobs = [bus.submit("blocks") for _ in range(SIZE)]
            await place.noted("blocks 1")
            await until(lambda: "blocks" in place.observer.stalled, "the stall is noticed")
            assert sum(job.is_blocking for job in jobs) == 1
            assert answer_of(await bus.ask("echo after")) == b'"echo after"'
            gate.open()
            await bus.ended(*(job for job in jobs if job.is_blocking))
            for job in jobs:
                bus.give_up(job)
            await until(lambda: not bus.executor.abandoned(), "nothing runs on")
    assert place.observer.reasons == []


async def test_a_batch_that_the_stop_cuts_cleans_up(place: Place) -> None:
    """Its queries return no answer, and its code has the time to clean up."""
    async with place.running(PLAN) as bus:
        await a_batch(bus, place, "waits")
        await bus.stop(10)
        await asyncio.sleep(0)
    assert (bus.finished, place.notes("cleaned")) == ([], ["cleaned up"])
