"""The contract between the service and executors, tested for every kind.

Limits are long, so that the test alone decides what ends when; a service's limits are in
test_real_limits.py. The other files test what one kind does alone.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from fivestage import Plan
from fivestage.core.attempts import earlier_attempts
from fivestage.core.outcome import conclude
from fivestage_schemas import Outcome, StageType
from support import contract_app
from support.contract_app import ERRORS, GATE, MEETING, RESULTS
from support.jobs import answer_of, node_run, running_stage, until
from support.kinds import PLAN, STALL_S, Place, alive, all_ready, in_this_process, processes_of

if TYPE_CHECKING:
    from pathlib import Path

    from fivestage.core.job import Job
    from fivestage.core.stage_run import StageRun
    from fivestage.executors import Executor
    from support.jobs import Bus

pytestmark = pytest.mark.realtime
LATE_S = 1.0
"""For calls that are late."""
STOP_S = 1.0
STOP_AT_MOST_S = 10.0
"""A bound that no machine reaches, except for a wait without a limit."""
KINDS = ("inline", "thread", "process")
HANGING = ("ignores", "blocks-def", "blocks")
"""Nodes whose code is abandoned."""


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Start an executor of each kind."""
    return Place(contract_app, request.param, tmp_path, monkeypatch)


beside_the_bus = pytest.mark.parametrize("place", ["thread", "process"], indirect=True)
"""For code that blocks or ends its event loop, which in the ``inline`` executor is the service's."""


def names_left(executor: Executor) -> list[str]:
    """Return the nodes of abandoned code."""
    return [left.name for left in executor.abandoned()]


def without_times(run: StageRun) -> tuple[Any, ...]:
    """Return a run as published, without its times."""
    ended = run.spec, run.outcome, run.data_json, run.error, run.error_type
    return *ended, run.node, run.attempt, run.probe, run.verdict, run.excused


# Jobs that end by themselves


async def test_every_job_comes_back_once(place: Place) -> None:
    """Each job of a burst returns once: on the service's thread, with five timed runs and its own answer."""
    async with place.running(PLAN) as bus:
        jobs = [bus.submit(f"echo {number}") for number in range(300)]
        await bus.ended(*jobs)
    assert len(bus.finished) == len(jobs)
    assert bus.threads == {threading.get_ident()}
    assert [answer_of(job) for job in jobs] == [b'"echo %d"' % number for number in range(300)]
    for job in jobs:
        starts = [run.started_at or 0.0 for run in job.history.runs]
        assert job.started_at <= starts[0]
        assert starts == sorted(starts)
        assert all(0 <= run.duration_s <= run.granted_s <= PLAN.total_s for run in job.history.runs)
    assert bus.executor.failure is None
    assert bus.executor.unready is None
    assert place.observer.reasons == []


async def test_where_code_runs(place: Place) -> None:
    """Only inline runs ``async def`` nodes on the service's thread; ``def`` nodes never run there."""
    async with place.running(PLAN) as bus:
        on_loop, in_thread = await bus.ask("where"), await bus.ask("where-def")
    (pid, loop), (same_pid, thread) = (eval_list(job) for job in (on_loop, in_thread))
    assert pid == same_pid
    assert in_this_process(pid) == (place.kind != "process")
    if in_this_process(pid):
        assert (loop == threading.get_ident()) == (place.kind == "inline")
        assert thread != threading.get_ident()
    assert loop != thread


def eval_list(job: Job) -> list[int]:
    """Return the answer of a job that answers two numbers."""
    return [int(word) for word in (answer_of(job) or b"").strip(b"[]").split(b",")]


EXPECTED_ERRORS = {f"raises {name}": name for name in ERRORS} | {
    f"raises-def {name}": name for name in ERRORS
}
EXPECTED_ERRORS |= {  # of what no coroutine may raise
    "raises StopIteration": "RuntimeError",
    "raises-def StopIteration": "RuntimeError",
    "raises-def GeneratorExit": "RuntimeError",
}
EXPECTED_RESULTS: dict[str, bytes | str] = {
    "nothing": b"null",
    "object": "TypeError",
    "bytes": "TypeError",
    "generator": "TypeError",
    "infinite": b"null",
    "nan": b"null",
    "half": "TypeError",
    "circle": "TypeError",
    "deep": "TypeError",
    "set": b"[1]",
    "decimal": b'"0.10"',
    "keys": b'{"1":"one","null":"none"}',
    "large": b"1180591620717411303424",
}


async def test_any_result_of_a_node_is_a_run(place: Place) -> None:
    """Exceptions of any class, and results with or without JSON, end their own query only."""
    calls = EXPECTED_ERRORS | {f"returns {name}": found for name, found in EXPECTED_RESULTS.items()}
    assert EXPECTED_RESULTS.keys() == RESULTS.keys()
    async with place.running(PLAN) as bus:
        jobs = {text: bus.submit(text) for text in calls}
        await bus.ended(*jobs.values())
        assert answer_of(await bus.ask("echo again")) == b'"echo again"'
    found = {text: node_run(job).error_type or node_run(job).data_json for text, job in jobs.items()}
    assert found == calls
    for job in jobs.values():
        outcome = Outcome.ERROR if node_run(job).error_type else Outcome.SUCCESS
        assert [run.outcome for run in job.history.runs[:3]] == [Outcome.SUCCESS, Outcome.SUCCESS, outcome]
    assert place.observer.reasons == []


@beside_the_bus
async def test_histories_equal_those_of_inline(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither threads nor processes change a run: it is byte for byte the inline one."""
    texts = ["echo häuser", "no-such-node", "raises ValueError", "raises-def SpeechlessError"]
    texts += ["returns object", "returns set", "returns nothing", "where-to"]
    inline = Place(contract_app, "inline", tmp_path, monkeypatch)
    async with place.running(PLAN) as bus, inline.running(PLAN) as reference:
        for text in texts:
            found, expected = (await bus.ask(text)).history, (await reference.ask(text)).history
            assert [without_times(run) for run in found.runs] == [without_times(run) for run in expected.runs]
            assert (found.answer_json, found.confidence) == (expected.answer_json, expected.confidence)
            assert [without_times(run) for run in found.superseded] == [
                without_times(run) for run in expected.superseded
            ]
            assert [run.started_at is None for run in found.runs] == [
                run.outcome is Outcome.SKIPPED for run in found.runs
            ]


@pytest.mark.fault(16)
@beside_the_bus
async def test_code_cannot_end_the_loop(place: Place) -> None:
    """``loop.stop()`` and exceptions of tasks end their own query only."""
    hows = {"stop": None, "SystemExit": "SystemExit", "KeyboardInterrupt": "KeyboardInterrupt"}
    async with place.running(PLAN) as bus:
        neighbour = bus.submit("meets")
        await place.noted("meets")
        blocking_jobs = [await bus.ask(f"ends-loop {how}") for how in hows]
        (place.folder / MEETING).touch()
        await bus.ended(neighbour)
        after = await bus.ask("echo after")
    assert [node_run(job).error_type for job in blocking_jobs] == list(hows.values())
    assert (answer_of(neighbour), node_run(neighbour).attempt) == (b'"met"', 1)
    assert answer_of(after) == b'"echo after"'
    assert place.observer.reasons == []


async def test_a_node_that_is_late_and_another_that_answers(place: Place) -> None:
    """Both attempts are returned, so that the late one has its timeout event."""
    limits = {**dict.fromkeys(StageType, 60_000.0), StageType.PROCESSING: LATE_S * 1000}
    plan = Plan.of(total_timeout_ms=60_000, stage_timeouts_ms=limits, critical=StageType)
    async with place.running(plan) as bus:
        job = await bus.ask("late")
    now = time.monotonic()
    got = conclude(job.history, plan, started_at=job.started_at, ends_at=job.ends_at, now=now)
    assert (got.answer_json, got.runs[2].node, got.runs[2].attempt) == (b"2", "prompt", 2)
    assert [(run.node, run.outcome, run.attempt) for run in got.earlier] == [("late", Outcome.TIMEOUT, 1)]
    assert [(str(note.scope), note.node, note.attempt) for note in got.timeouts] == [("stage", "late", 1)]
    assert got.timeouts[0].limit_s >= LATE_S  # more, where other code blocked the loop


# Jobs that the service ends


async def test_a_job_that_ends_before_it_is_taken_runs_nothing(place: Place) -> None:
    """A job that ended before it was taken runs nothing and does not return; the next one does."""
    async with place.running(PLAN) as bus:
        with place.gate(GATE).closed() as gate:
            if place.kind == "thread":  # which would take it at once
                bus.submit("blocks")
                await place.noted("blocks")
            ended = bus.submit("waits never")
            bus.give_up(ended)
            gate.open()
        after = await bus.ask("echo after")
        await until(lambda: not bus.executor.abandoned(), "nothing runs on")
    assert after in bus.finished
    assert ended not in bus.finished
    assert (ended.history.runs, place.notes("waits"), place.notes("cleaned")) == ([], [], [])


async def test_a_cancelled_job_cleans_up_and_does_not_come_back(place: Place) -> None:
    """A cancelled job cleans up and does not return; its history has its last stage."""
    async with place.running(PLAN) as bus:
        job = bus.submit("waits")
        await place.noted("waits")
        await bus.processing(job)
        bus.give_up(job)
        await place.noted("cleaned up")
        after = await bus.ask("echo after")
        await until(lambda: not bus.executor.abandoned(), "nothing runs on")
    assert bus.finished == [after]
    assert [run.outcome for run in job.history.runs] == [Outcome.SUCCESS] * 2
    assert running_stage(job) is StageType.PROCESSING


@pytest.mark.fault(15, 17)
async def test_abandoned_code_is_counted_until_it_ends(place: Place) -> None:
    """Abandoned code is counted by its node until it ends, asynchronous or in a thread; others go on."""
    async with place.running(PLAN) as bus:
        with place.gate(GATE).closed() as gate:
            hanging = [bus.submit(node) for node in ("ignores", "blocks-def")]
            for job in hanging:
                await place.noted(job.query.user_input)
                await bus.processing(job)
                bus.give_up(job)
            names = ["blocks-def", "ignores"]
            await until(lambda: sorted(names_left(bus.executor)) == names, "both are counted")
            after = await bus.ask("echo after")
            assert sorted(names_left(bus.executor)) == names
            gate.open()
            await until(lambda: not bus.executor.abandoned(), "nothing runs on")
        again = await bus.ask("echo again")
    assert [job for job in bus.finished if job not in hanging] == [after, again]
    assert len(bus.finished) == len(set(bus.finished))
    assert answer_of(after) == b'"echo after"'


@pytest.mark.fault(15)
@beside_the_bus
async def test_a_loop_that_is_blocked(place: Place) -> None:
    """Jobs beside a blocking one move and resume their stage; the blocking query is answered later.

    The service's loop is never blocked.
    """
    async with place.running(PLAN, stall_s=STALL_S) as bus:
        with place.gate(GATE).closed() as gate:
            neighbours = [bus.submit("naps") for _ in range(3)]
            await place.noted("naps 1", 3)
            blocking_job = bus.submit("blocks")
            await place.noted("blocks")
            await bus.ended(*neighbours)
            after = await bus.ask("echo after")
            assert blocking_job not in bus.finished
            assert after.place is not blocking_job.place
            assert (running_stage(blocking_job), blocking_job.is_blocking) == (StageType.PROCESSING, True)
            gate.open()
            await bus.ended(blocking_job)
    assert [answer_of(job) for job in neighbours] == [b'"awake"'] * 3
    assert all(node_run(job).attempt >= 2 for job in neighbours)
    for job in neighbours:  # each abandoned attempt is in the history
        earlier = earlier_attempts(job.history, job.history.runs, time.monotonic())
        assert [run.attempt for run in earlier] == [*range(1, node_run(job).attempt)]
        assert {run.outcome for run in earlier} == {Outcome.SKIPPED}
    assert all([run.attempt for run in job.history.runs[:2]] == [1, 1] for job in neighbours)
    assert (answer_of(blocking_job), node_run(blocking_job).attempt) == (b'"came back"', 1)
    assert "blocks" in place.observer.stalled
    assert place.observer.reasons == []


@pytest.mark.fault(15)
@beside_the_bus
async def test_a_job_that_ends_while_it_blocks_the_loop(place: Place) -> None:
    """A job that ends while it blocks the loop is counted until it returns; its late answer is dropped."""
    async with place.running(PLAN, stall_s=STALL_S) as bus:
        with place.gate(GATE).closed() as gate:
            blocking_job = bus.submit("blocks")
            await place.noted("blocks")
            await bus.processing(blocking_job)
            bus.give_up(blocking_job)
            await until(lambda: names_left(bus.executor) == ["blocks"], "it is counted")
            gate.open()
            await until(lambda: not bus.executor.abandoned(), "nothing runs on")
        after = await bus.ask("echo after")
    assert answer_of(after) == b'"echo after"'
    assert [job for job in bus.finished if job is not blocking_job] == [after]
    assert place.observer.reasons == []


# The shutdown


async def test_jobs_cut_by_the_stop_clean_up_and_do_not_come_back(place: Place) -> None:
    """Jobs cancelled by the stop do not return an answer; leftover tasks do not delay it."""
    async with place.running(PLAN) as bus:
        cut, leaving = bus.submit("waits"), await bus.ask("leaves-tasks")
        await place.noted("waits")
        await bus.processing(cut)
        pids = processes_of(bus.executor)
        assert await stopped_after(bus, STOP_AT_MOST_S) < STOP_AT_MOST_S
        await asyncio.sleep(0)
    assert (bus.finished, place.notes("cleaned")) == ([leaving], ["cleaned up"])
    assert [run.outcome for run in cut.history.runs] == [Outcome.SUCCESS] * 2
    assert not any(map(alive, pids))


async def stopped_after(bus: Bus, limit_s: float) -> float:
    """Stop; return the seconds that it took."""
    began_at = time.monotonic()
    async with asyncio.timeout(3 * STOP_AT_MOST_S):
        await bus.stop(limit_s)
    return time.monotonic() - began_at


@pytest.mark.fault(15, 17)
@pytest.mark.parametrize(
    ("place", "node"),
    [(kind, node) for kind in KINDS for node in HANGING if (kind, node) != ("inline", "blocks")],
    indirect=["place"],
)
async def test_the_stop_leaves_hanging_code_behind(place: Place, node: str) -> None:
    """The stop ends in its time; late results are dropped, and another executor can start."""
    with place.gate(GATE).closed() as gate:
        async with place.running(PLAN) as bus:
            hanging = bus.submit(node)
            await place.noted(node)
            await bus.processing(hanging)
            pids = processes_of(bus.executor)
            assert await stopped_after(bus, STOP_S) < STOP_AT_MOST_S
            assert not any(map(alive, pids))
        async with place.running(PLAN) as other:
            assert answer_of(await other.ask("echo after")) == b'"echo after"'
            gate.open()
            await other.ask("echo again")
        assert hanging.ended
    assert bus.finished in ([], [hanging])


async def test_an_executor_that_has_not_started(place: Place) -> None:
    """An executor that has not started says so, and has no abandoned code."""
    executor = place.executor(PLAN)
    with pytest.raises(RuntimeError, match="has not been started"):
        executor.submit(None)  # type: ignore[arg-type]
    await all_ready(executor)
    assert executor.abandoned() == []
