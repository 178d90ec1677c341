"""Hostile user code affects only its own process; with real processes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fivestage import ConfigurationError, InvalidAppError
from fivestage.core.adaptive.breaker import BreakerState
from fivestage.core.routing_snapshot import NodeRouting, RoutingSnapshot
from fivestage.executors.process.executor import Setup
from fivestage.executors.process.fork_requests import ForkTimeouts
from fivestage.executors.process.worker import ProcessWorker
from fivestage_schemas import Outcome, StageType
from support import process_app
from support.jobs import LIMIT_S, Bus, Replacements, answer_of, node_run, running_stage, started, until
from support.kinds import alive, all_ready, pids_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fivestage.executors.process.executor import ProcessExecutor

pytestmark = pytest.mark.realtime
PLAN = process_app.PLAN


class ProcessBus(Bus):
    """A process executor, and the reasons of its replaced workers."""

    executor: ProcessExecutor

    def __init__(self, **options: Any) -> None:
        self.observer = Replacements()
        super().__init__(process_app.executor(observer=self.observer, **options), PLAN)

    async def start(self) -> None:
        """Start, and wait for the spare too, so that it is known which worker gets the queries."""
        await super().start()
        await all_ready(self.executor)

    @property
    def fork_server(self) -> int:
        return pids_of(self.executor)[0]

    @property
    def worker(self) -> ProcessWorker:
        worker = self.executor.workers[0]
        assert isinstance(worker, ProcessWorker)
        return worker

    async def worker_pid(self) -> int:
        await until(lambda: self.worker.link.pid is not None)
        assert self.worker.link.pid is not None
        return self.worker.link.pid


@pytest.fixture
async def bus() -> AsyncIterator[ProcessBus]:
    """An executor with one worker and a patience that a busy machine does not exceed."""
    bus = ProcessBus(stall_s=process_app.LONG_S)
    async with started(bus):
        yield bus


async def test_exceptions_are_logged_by_their_process(capfd: pytest.CaptureFixture[str]) -> None:
    """The line has place and query; the text only with the setting in the service's process."""
    for more in ((), ("show_text",)):
        bus = ProcessBus(setup=Setup(("fivestage.observability.logging:configure", "INFO", *more)))
        async with started(bus):
            await bus.ask("fails")
        lines = [line for line in capfd.readouterr().err.splitlines() if "fivestage.nodes" in line]
        line = json.loads(lines[0])
        where, _, number = line["where"].rpartition(":")
        assert (len(lines), Path(where).name, int(number) > 0) == (1, "process_app.py", True)
        logged = line["error_type"], line["node"], line["stage"], line["query_id"], line["level"]
        assert logged == ("ValueError", "fails", "processing", "q", "warning")
        assert line.get("error") == ("\\udc80 is no text" if more else None)


async def test_queries_are_shared_among_the_workers() -> None:
    """Workers get equal shares."""
    bus = ProcessBus(workers=2)
    async with started(bus):
        jobs = [bus.submit("pid") for _ in range(100)]
        await bus.ended(*jobs)
        workers = bus.executor.workers[:2]
        assert [sum(job.place is worker for job in jobs) for worker in workers] == [50, 50]
    assert len({answer_of(job) for job in jobs}) == 2
    assert bus.observer.reasons == []


async def test_code_that_keeps_the_interpreter_lock() -> None:
    """Other queries move; the process is killed after its query ends, even with the interpreter lock held."""
    bus = ProcessBus(stall_s=1.0)
    async with started(bus):
        neighbours = [bus.submit("naps") for _ in range(3)]
        for job in neighbours:
            await bus.processing(job)
        pid, blocking_job = await bus.worker_pid(), bus.submit("holds")
        await bus.ended(*neighbours)
        assert all(node_run(job).attempt >= 2 for job in neighbours)
        assert (bus.observer.reasons, alive(pid)) == ([], True)
        assert blocking_job not in bus.finished
        assert running_stage(blocking_job) is StageType.PROCESSING
        bus.give_up(blocking_job)
        await until(lambda: not alive(pid), "its process has ended")
        await until(lambda: not bus.executor.abandoned(), "nothing runs on")
        assert bus.observer.reasons == ["code of ended queries runs on"]
        assert answer_of(await bus.ask("pid")) != b"%d" % pid


async def test_code_that_ends_its_process(bus: ProcessBus) -> None:
    """Only its own query fails; the others move."""
    nodes = ("exits", "crashes", "closes", "scribbles", "leaves-a-fork")
    for number, node in enumerate(nodes, 1):
        neighbours = [bus.submit("naps") for _ in range(3)]
        for job in neighbours:
            await bus.processing(job)
        blocking_job = await bus.ask(node)
        await bus.ended(*neighbours)
        assert [answer_of(job) for job in neighbours] == [b'"awake"'] * 3
        run = node_run(blocking_job)
        assert (run.outcome, run.error_type, run.node) == (Outcome.ERROR, "worker_died", node)
        assert len(blocking_job.history.runs) == 3
        assert bus.observer.reasons == ["its process has ended"] * number
        assert answer_of(await bus.ask("echo again")) == b'"echo again"'
        await all_ready(bus.executor)


async def test_a_worker_that_is_killed(bus: ProcessBus) -> None:
    """Queries of a worker that is killed, for example for its memory, continue in another."""
    jobs = [bus.submit("naps") for _ in range(3)]
    for job in jobs:
        await bus.processing(job)
    os.kill(await bus.worker_pid(), signal.SIGKILL)
    await bus.ended(*jobs)
    assert [node_run(job).attempt for job in jobs] == [2, 2, 2]


async def test_a_spare_that_is_killed(bus: ProcessBus) -> None:
    """A killed spare is not used."""
    await until(lambda: len(pids_of(bus.executor)) == 3)
    _, worker, spare = pids_of(bus.executor)
    os.kill(spare, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    assert answer_of(await bus.ask("echo")) == b'"echo"'
    await until(lambda: len(bus.observer.reasons) == 2)
    assert bus.observer.reasons == ["its process has ended"] * 2


async def test_a_thread_that_never_ends(bus: ProcessBus, tmp_path: Path) -> None:
    """The thread is reported by name; its worker gets no more queries and ends with the ones it has."""
    entered = tmp_path / "entered"
    pid, stays, stuck = await bus.worker_pid(), bus.submit("naps"), bus.submit(f"never {entered}")
    await bus.processing(stays)
    await until(entered.exists)
    bus.give_up(stuck)
    await until(lambda: [left.name for left in bus.executor.abandoned()] == ["never"])
    await until(lambda: bool(bus.observer.reasons))
    assert bus.observer.reasons == ["code of ended queries runs on"]
    assert answer_of(await bus.ask("pid")) != b"%d" % pid
    assert alive(pid)
    assert running_stage(stays) is StageType.PROCESSING
    bus.give_up(stays)
    await until(lambda: not alive(pid))
    await until(lambda: not bus.executor.abandoned())


async def test_a_node_that_forks(bus: ProcessBus) -> None:
    """A fork ends where it returns, and the service hears the original only."""
    pid = await bus.ask("pid")
    job = await bus.ask("forks")
    assert answer_of(job) == b"0"
    assert answer_of(await bus.ask("pid")) == answer_of(pid)
    assert len(bus.finished) == 3
    assert bus.observer.reasons == []


async def test_large_data(bus: ProcessBus) -> None:
    """Data larger than the socket buffers is sent, both ways.

    What is too large is not: the stage succeeds without its data, and the encoder rejects the answer.
    """
    text = "echo " + "x" * 450_000
    assert answer_of(await bus.ask(text)) == b'"%s"' % text.encode()
    job = await bus.ask("large 50000000")
    run = node_run(job)
    assert (run.outcome, run.data_json, run.error_type) == (Outcome.SUCCESS, None, "result_too_large")
    assert job.history.answer_json is not None
    assert len(job.history.answer_json) > 1_000_000
    assert len(job.history.runs) == 5


def half_open() -> RoutingSnapshot:
    """Build a lane whose node ``echo`` may be probed once."""
    routing = RoutingSnapshot.neutral(PLAN)
    routing.nodes = {"echo": NodeRouting(BreakerState.HALF_OPEN)}
    routing.probes = {"echo": True}
    return routing


async def test_one_probe_is_made_whatever_the_number_of_workers() -> None:
    """The permit goes to one worker, and there to one query."""
    bus, routing = ProcessBus(workers=3), half_open()
    async with started(bus):
        jobs = [bus.submit("echo", routing) for _ in range(9)]
        await bus.ended(*jobs)
    runs = [node_run(job) for job in jobs]
    assert sorted(run.probe for run in runs) == [False] * 8 + [True]
    assert sorted(run.error_type or "" for run in runs) == [""] + ["breaker_open"] * 8
    assert routing.probes == {}


async def test_one_trial_is_made_whatever_the_number_of_workers() -> None:
    """The permit goes to one worker; a failed trial is answered by the other node."""
    bus, routing = ProcessBus(workers=3), RoutingSnapshot.neutral(PLAN)
    routing.nodes = {"fails": NodeRouting(BreakerState.OPEN), "stands-in": NodeRouting(p95_s=0.01)}
    routing.trials = {"fails": True}
    async with started(bus):
        jobs = [bus.submit("tries fails", routing) for _ in range(9)]
        await bus.ended(*jobs)
    assert [node_run(job).node for job in jobs] == ["stands-in"] * 9
    tried = [run for job in jobs for run in job.history.superseded]
    assert [(run.node, run.probe, run.error_type) for run in tried] == [("fails", True, "ValueError")]
    assert routing.trials == {}


async def test_an_unused_probe_permit_is_returned(bus: ProcessBus) -> None:
    """The permit returns if its query called another node."""
    routing = half_open()
    job = bus.submit("pid", routing)
    assert routing.probes == {}
    await bus.ended(job)
    assert routing.probes == {"echo": True}


async def test_a_changed_routing_snapshot_reaches_the_workers(bus: ProcessBus) -> None:
    """A changed routing snapshot arrives before the next query of its lane."""
    routing = RoutingSnapshot.neutral(PLAN)
    first = bus.submit("echo", routing)
    await bus.ended(first)
    routing.stuck = frozenset({"echo"})
    second = bus.submit("echo", routing)
    await bus.ended(second)
    assert (node_run(first).error_type, node_run(second).error_type) == (None, "node_stuck")


async def test_signals(bus: ProcessBus) -> None:
    """Ctrl-C or SIGTERM to the process group ends no worker, only processes that nodes started."""
    for pid in pids_of(bus.executor):
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    assert answer_of(await bus.ask("signals")) == b"[-2,-15,-2,-15]"
    assert answer_of(await bus.ask("echo")) == b'"echo"'
    assert bus.observer.reasons == []


async def test_stopping_ends_all_processes() -> None:
    """Also a stuck process ends in time."""
    bus = ProcessBus(workers=2)
    async with started(bus):
        stuck = bus.submit("holds")
        await bus.processing(stuck)
        pids = pids_of(bus.executor)
    assert [pid for pid in pids if alive(pid)] == []
    assert bus.finished == []


async def test_the_death_of_the_service_ends_all_processes() -> None:
    """No process is left, whatever the service died of."""
    program = [sys.executable, "-c", "from support.process_app import hold; hold()"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(program, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        line = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), LIMIT_S)
        process.kill()
    pids = [int(word) for word in line.split()]
    assert len(pids) == 4
    await until(lambda: not any(map(alive, pids)))


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        (None, InvalidAppError, "cannot import broken_app:app"),
        ("other = 1", InvalidAppError, "has no 'app'"),
        ("app = 1", InvalidAppError, "is a int, not a"),
        ("import no_such_module_at_all", InvalidAppError, "No module named 'no_such_module_at_all'"),
        ("1 / 0", InvalidAppError, "ZeroDivisionError"),
        ("import sys; sys.exit('enough')", InvalidAppError, "SystemExit: enough"),
        ("import os; os._exit(7)", ConfigurationError, "ended with exit_code 7"),
        ("import os; os.kill(os.getpid(), 11)", ConfigurationError, "ended with signal 11"),
        ("while True: pass", ConfigurationError, "takes more than 1 s"),
    ],
)
async def test_an_app_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None, error: type[Exception], text: str
) -> None:
    """The start fails with the reason, in each way to fail; no process is left."""
    if source is not None:
        (tmp_path / "broken_app.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    limits = {"timeouts": ForkTimeouts(load_s=1.0)} if "while" in (source or "") else {}
    bus = ProcessBus(app="broken_app:app", **limits)
    with pytest.raises(error, match=text):
        await bus.start()
    assert not alive(bus.fork_server)
    assert bus.executor.failure is not None


async def test_an_import_that_fails_shows_its_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A log line has the author's frames, as an app may fail only at its second import."""
    (tmp_path / "failing_app.py").write_text("def load():\n    1 / 0\n\nload()\n")
    monkeypatch.syspath_prepend(tmp_path)
    setup = Setup(("fivestage.observability.logging:configure",))
    with pytest.raises(InvalidAppError, match="importing failing_app:app failed: ZeroDivisionError"):
        await ProcessBus(app="failing_app:app", setup=setup).start()
    traceback = json.loads(capfd.readouterr().err)["traceback"]
    assert re.findall(r'File "(.*)", line (\d+), in (.*)', traceback) == [
        (str(tmp_path / "failing_app.py"), "4", "<module>"),
        (str(tmp_path / "failing_app.py"), "2", "load"),
    ]
    assert traceback.endswith("ZeroDivisionError: division by zero\n")


async def test_the_built_in_app_is_the_default() -> None:
    """Where no app is named."""
    bus = ProcessBus(app=None)
    async with started(bus):
        assert node_run(await bus.ask("2 + 2")).node == "math"


async def test_setup_comes_before_the_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Setup is called in the process that imports the app, with the given texts."""
    (tmp_path / "setup_app.py").write_text(
        "import os\nfrom fivestage import Pipeline\n"
        "seen = os.environ.get('SETUP', 'none')\n"
        "app = Pipeline(builtins=False)\n"
        "app.decision(lambda query, ctx: 'seen')\n"
        "app.node('seen')(lambda query, ctx: seen)\n"
    )
    (tmp_path / "setup_first.py").write_text("import os\ndef before(text): os.environ['SETUP'] = text\n")
    monkeypatch.syspath_prepend(tmp_path)
    bus = ProcessBus(app="setup_app:app", setup=Setup(("setup_first:before", "hello")))
    async with started(bus):
        assert answer_of(await bus.ask("?")) == b'"hello"'
