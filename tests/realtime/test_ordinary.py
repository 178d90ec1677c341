"""Ordinary asyncio code behaves in threads and processes as under plain asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from fivestage import Plan
from fivestage.executors.worker_pool import WorkerPool
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus
from fivestage_schemas import StageType
from support import kinds, ordinary_app, process_app
from support.files import Gate
from support.jobs import Bus, answer_of, node_run, until
from support.kinds import LONG_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from fivestage.core.job import Job

pytestmark = pytest.mark.realtime
STAGE_S = 30.0
PLAN = Plan.of(total_timeout_ms=LONG_S * 1000, stage_timeouts_ms=dict.fromkeys(StageType, STAGE_S * 1000))
"""Long enough that the test decides what ends when, and no query moves by itself."""
HURRIED = process_app.PLAN
"""With this latency any wait costs a query its answer, as its stages may take the whole time."""
SOON_S = 0.3
"""For wanted stalls; with less, a busy machine causes false ones."""
STALLS = 3
SLOW = ordinary_app.SLOW


class Place(kinds.Place):
    """The app in an executor of one kind."""

    def __init__(self, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(ordinary_app, kind, folder, monkeypatch)
        self.slow = self.gate(SLOW)

    @contextlib.asynccontextmanager
    async def serving(self, stall_s: float = LONG_S, plan: Plan = PLAN) -> AsyncIterator[Bus]:
        """Run the executor with its bus; assert that no worker was replaced."""
        async with self.running(plan, stall_s=stall_s) as bus:
            yield bus
            assert self.observer.reasons == []


@pytest.fixture(params=["thread", "process"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Start an executor of each kind."""
    return Place(request.param, tmp_path, monkeypatch)


def names_left(bus: Bus | MemoryBus) -> list[str]:
    """Return the nodes of abandoned code."""
    return [left.name for left in bus.executor.abandoned()]


def pool_of(bus: Bus) -> WorkerPool:
    """Return the worker pool."""
    assert isinstance(bus.executor, WorkerPool)
    return bus.executor


async def nothing_left(bus: Bus) -> None:
    """Wait until there is no abandoned code."""
    await until(lambda: not bus.executor.abandoned())
    await until(lambda: not any(worker.registry.left for worker in pool_of(bus).workers))


def rows_of(name: str) -> bytes:
    """Return the database's rows of a name."""
    return b'["%b-1","%b-2"]' % (name.encode(), name.encode())


async def test_rows_go_to_the_caller_that_requested_them(place: Place) -> None:
    """A reply after its query's end is not read by the next user of the connection."""
    async with place.serving() as bus:
        with place.slow.closed() as gate:
            late = bus.submit(f"rows {SLOW}")
            await place.noted(f"asked for {SLOW}")
            bus.give_up(late)
            await until(lambda: names_left(bus) == ["rows"])
            callers = [bus.submit(f"rows {name}") for name in ("bob", "carol")]
            gate.open()
            await bus.ended(*callers)
        assert [answer_of(job) for job in callers] == [rows_of("bob"), rows_of("carol")]
        await nothing_left(bus)
        await bus.ask("hangs-up")
    assert late not in bus.finished


async def test_a_connection_that_is_closed_when_its_query_is_cancelled(place: Place) -> None:
    """The next callers get another connection and their own rows, before and after the late reply."""
    async with place.serving() as bus:
        with place.slow.closed() as gate:
            late = bus.submit(f"async-rows {SLOW}")
            await place.noted(f"asked for {SLOW}")
            bus.give_up(late)
            bob = await bus.ask("async-rows bob")
            await nothing_left(bus)
            gate.open()
        carol = await bus.ask("async-rows carol")
        await bus.ask("hangs-up")
    assert [answer_of(job) for job in (bob, carol)] == [rows_of("bob"), rows_of("carol")]
    assert place.notes("closed") == ["closed a connection"]


@pytest.fixture
def library(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the name of a library whose import blocks."""
    name = f"slow_library_of_{place.kind}"
    source = f"""
        from pathlib import Path
        from support.files import Gate, note
        note(Path({str(place.folder)!r}), "imports")
        Gate(Path({str(place.folder)!r}), {SLOW!r}).wait()
        ANSWER = "imported"
    """
    (place.folder / f"{name}.py").write_text("\n".join(line.strip() for line in source.splitlines()))
    monkeypatch.syspath_prepend(place.folder)
    yield name
    sys.modules.pop(name, None)


async def test_a_lazy_import_that_takes_longer_than_the_limit(place: Place, library: str) -> None:
    """Of 12 concurrent queries the importing ones time out, their threads return, the next is answered."""
    async with place.serving() as bus:
        with place.slow.closed() as gate:
            jobs = [bus.submit(f"imports {library}") for _ in range(12)]
            await until(lambda: place.notes("wants it") == ["wants it"] * 12)
            await place.noted("imports")
            for job in jobs:
                bus.give_up(job)
            await until(lambda: names_left(bus) == ["imports"] * 12)
            gate.open()
            await nothing_left(bus)
        assert answer_of(await bus.ask(f"imports {library}")) == b'"imported"'
        assert place.notes("imports") == ["imports"]


async def test_a_log_handler_that_is_slow(place: Place) -> None:
    """Queries that end in a slow log handler leave no logging lock held."""
    async with place.serving() as bus:
        with place.slow.closed() as gate:
            late = [bus.submit(f"logs {SLOW}")]
            await place.noted(f"logs {SLOW}")
            late += [bus.submit("logs waits") for _ in range(3)]
            await until(lambda: place.notes("wants") == ["wants to log"] * 4)
            for job in late:
                bus.give_up(job)
            later = bus.submit("logs later")
            await until(lambda: names_left(bus) == ["logs"] * 4)
            gate.open()
            await bus.ended(later)
        await nothing_left(bus)
        assert answer_of(later) == answer_of(await bus.ask("logs again")) == b'"logged"'
        assert answer_of(await bus.ask("locks")) == b"true"


async def test_to_thread_is_counted(place: Place) -> None:
    """Its calls are counted by their node while they run; other calls, and name lookups, go on."""
    async with place.serving() as bus:
        with place.slow.closed() as gate:
            late = bus.submit(f"to-thread {SLOW}")
            await place.noted(f"calls {SLOW}")
            bus.give_up(late)
            await until(lambda: names_left(bus) == ["to-thread"])
            assert answer_of(await bus.ask("to-thread quick")) == b'"called"'
            assert answer_of(await bus.ask("resolves")) == b"true"
            assert names_left(bus) == ["to-thread"]
            gate.open()
            await nothing_left(bus)


async def stall(place: Place, bus: Bus, neighbour: Job) -> Job:
    """Block another query's loop until the stall is noticed; return the job."""
    before = len(place.observer.stalled)
    with place.slow.closed() as gate:
        job = bus.submit("blocks")
        assert job.place is neighbour.place
        await until(lambda: place.observer.stalled[before:])
        gate.open()
        await bus.ended(job)
    await until(lambda: not pool_of(bus)._set.stalled)
    return job


@pytest.mark.parametrize("node", ["waits", "pays"])
async def test_code_that_waits_beside_code_that_blocks(place: Place, node: str) -> None:
    """A query whose loop is blocked repeatedly is answered and runs once."""
    async with place.serving(SOON_S) as bus:
        with Gate(place.folder, "enough").closed() as enough:
            job = bus.submit(f"{node} enough")
            await place.noted(node)
            blocked = [await stall(place, bus, job) for _ in range(STALLS)]
            assert job not in bus.finished
            enough.open()
            (place.folder / "enough").touch()
            await bus.ended(job)
    assert [answer_of(one) for one in blocked] == [b'"turns again"'] * STALLS
    assert answer_of(job) == (b'"paid"' if node == "pays" else b'"waited"')
    assert node_run(job).attempt == 1
    assert place.notes() == [node] + ["has paid"] * (node == "pays")


@pytest.mark.parametrize("place", ["thread"], indirect=True)
async def test_a_call_in_a_thread_goes_on_when_its_query_moves(place: Place, tmp_path: Path) -> None:
    """The loop of a spare waits for the running call, which runs once."""
    async with place.serving(SOON_S, HURRIED) as bus:
        with Gate(tmp_path, "enough").closed() as enough, place.slow.closed() as gate:
            job = bus.submit("pays enough")
            await place.noted("pays")
            before, blocking_job = job.place, bus.submit("blocks")
            await until(lambda: job.place is not before)
            enough.open()
            await bus.ended(job)
            assert blocking_job not in bus.finished
            gate.open()
            await bus.ended(blocking_job)
    assert (answer_of(job), node_run(job).attempt) == (b'"paid"', 1)
    assert place.notes() == ["pays", "has paid"]


async def test_a_client_that_is_made_on_first_use(place: Place) -> None:
    """A client created on first use blocks each loop; queries behind it are answered and run once."""
    async with place.serving(SOON_S) as bus:
        with place.slow.closed() as gate:
            caught = [bus.submit(f"uses-client {number}") for number in range(6)]
            await until(lambda: place.observer.stalled)
            later = [bus.submit(f"uses-client {number}") for number in range(6, 12)]
            gate.open()
            await bus.ended(*caught, *later)
    jobs = [*caught, *later]
    assert [answer_of(job) for job in jobs] == [b'"%d"' % number for number in range(12)]
    assert [node_run(job).attempt for job in jobs] == [1] * 12
    assert sorted(place.notes("answers")) == sorted(f"answers {number}" for number in range(12))


@pytest.mark.parametrize("end", ["deadline", "stop"])
async def test_a_cancelled_node_finishes_its_clean_up(place: Place, end: str) -> None:
    """A clean-up of several loop turns completes, at the end of its query and of the executor."""
    async with place.serving() as bus:
        job = bus.submit("cleans-up")
        await place.noted("waits")
        if end == "deadline":
            bus.give_up(job)
            await nothing_left(bus)
            assert place.notes("cleaned") == ["cleaned up"]
    assert place.notes("cleaned") == ["cleaned up"]


async def test_a_node_whose_database_was_slow_for_a_moment(place: Place) -> None:
    """Five calls return late; the next 50 are answered while those still run."""
    stages = dict.fromkeys(StageType, STAGE_S * 1000)
    limits = {"total_timeout_ms": LONG_S * 1000, "stage_timeouts_ms": stages}
    settings = Settings.model_validate({"pipeline": limits})
    app = ordinary_app.make(place.folder)
    async with MemoryBus(app, settings=settings, executor=place.executor(PLAN)) as bus:
        with place.slow.closed() as gate:
            slow = (bus.ask(f"database {SLOW}", query_id=f"slow-{n}", budget_ms=2000) for n in range(5))
            assert {result.status for result in await asyncio.gather(*slow)} == {"timeout"}
            await until(lambda: names_left(bus) == ["database"] * 5)
            fast = [bus.ask("database fast", query_id=f"fast-{n}") for n in range(50)]
            found = await asyncio.gather(*fast)
            gate.open()
    assert [(one.status, one.error_type, one.answer) for one in found] == [("success", None, "row")] * 50
    assert place.notes(f"asks {SLOW}") == [f"asks {SLOW}"] * 5
    assert place.observer.reasons == []


def line_that_blocks() -> str:
    """Return file and line where the node ``blocks`` blocks its loop."""
    path = Path(str(ordinary_app.__file__))
    lines = path.read_text().splitlines()
    [number] = [n for n, line in enumerate(lines, 1) if line.endswith(ordinary_app.BLOCKS_HERE)]
    return f"{path}:{number}"


@pytest.mark.parametrize("node", ["blocks", "leaves"])
async def test_a_stall_is_logged(place: Place, node: str) -> None:
    """The line has node and stage, if any, the duration, the blocking line, and the setting."""
    stall_s = 0.5  # a process is asked for the line at half of this time, and needs CPU to answer
    with capture_logs() as logs:
        async with place.serving(stall_s) as bus:
            with place.slow.closed() as gate:
                job = bus.submit(node)
                beside = bus.submit("database quick")  # a loop without queries is not checked
                await until(lambda: [line for line in logs if line["event"] == "event loop blocked"])
                gate.open()
                await bus.ended(job, beside)
    [line] = [line for line in logs if line["event"] == "event loop blocked"]
    known = ("blocks", "processing", "q") if node == "blocks" else (None, None, None)
    assert (line["node"], line["stage"], line["query_id"]) == known
    assert line["where"] == f"{line_that_blocks()} _block"
    assert line["blocked_ms"] >= stall_s * 1000
    assert line["setting"] == "executor.stall_ms = 500"


async def test_code_that_blocks_a_loop_for_ever_is_counted(place: Place) -> None:
    """Code of no running query is counted by its line; the loop is used again when it turns."""
    async with place.serving(SOON_S) as bus:
        with place.slow.closed() as gate:
            caught = [bus.submit(text) for text in ("leaves", "database caught")]
            await until(lambda: len(names_left(bus)) == 1)
            assert names_left(bus)[0].endswith((" _block", "a background task"))
            quick = await bus.ask("database quick")
            assert quick.place is not caught[0].place
            gate.open()
            await bus.ended(*caught)
            await nothing_left(bus)
