"""A fork server that fails, hangs or has no room takes no worker along; with real processes and limits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from fivestage import ConfigurationError, Query
from fivestage.core.job import Job
from fivestage.errors import ExecutorError
from fivestage.executors.executor import TICK_S
from fivestage.executors.process import executor as process_executor
from fivestage.executors.process.backoff import LOG_EVERY_S, MAX_PAUSE_S, Backoff
from fivestage.executors.process.fork_requests import ForkTimeouts
from support import fork_app, process_app
from support.jobs import until
from support.kinds import alive, pids_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from fivestage.executors.process.connection import WorkerLink
    from fivestage.executors.process.executor import ProcessExecutor
    from fivestage.executors.process.spawner import Spawner

pytestmark = pytest.mark.realtime


def children(pid: int) -> set[int]:
    """The processes that a process has forked, zombies included."""
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


class Service:
    """An executor of two workers, checked as the patrol does."""

    def __init__(self, executor: ProcessExecutor) -> None:
        self.executor = executor
        self.finished: list[Job] = []

    @property
    def spawner(self) -> Spawner:
        assert self.executor._spawner is not None
        return self.executor._spawner

    @property
    def server(self) -> int:
        return pids_of(self.executor)[0]

    @property
    def links(self) -> list[WorkerLink]:
        """All that have a process, or are to have one."""
        return [link for link in self.spawner._links if not link.gone]

    @property
    def workers(self) -> list[int]:
        """The processes that jobs go to."""
        return pids_of(self.executor)[1:]

    async def all_ready(self) -> None:
        """Wait for the workers."""
        await until(lambda: len(self.links) == 2 and all(link.ready for link in self.links))

    async def check(self) -> None:
        while True:
            self.executor.check(asyncio.get_running_loop().time())
            await asyncio.sleep(TICK_S)

    def submit(self, text: str = "pid") -> Job:
        now = asyncio.get_running_loop().time()
        query = Query("q", text)
        job = Job(query, process_app.PLAN, started_at=now, ends_at=now + process_app.LONG_S)
        self.executor.submit(job)
        return job

    def answers(self, jobs: list[Job]) -> list[int]:
        """The answers to those that have one: the numbers of the workers."""
        return [int(job.history.answer_json or b"0") for job in jobs if job in self.finished]

    async def kill_all_but_one(self) -> int:
        """Kill a worker; the number of the other one."""
        victim, healthy = self.workers
        os.kill(victim, signal.SIGKILL)
        await until(lambda: victim not in self.workers)
        return healthy

    async def goes_on_with(self, healthy: int) -> list[Job]:
        """Have two queries answered, by the healthy worker."""
        jobs = [self.submit() for _ in range(2)]
        await until(lambda: len(self.answers(jobs)) == 2)
        assert set(self.answers(jobs)) == {healthy}
        return jobs

    async def recovers(self, jobs: list[Job], healthy: int) -> None:
        """All get answers, and new queries from the healthy worker and from a new one."""
        await until(lambda: len(self.answers(jobs)) == len(jobs))
        await self.all_ready()
        assert healthy in self.workers
        jobs = [self.submit() for _ in range(2)]
        await until(lambda: len(self.answers(jobs)) == 2)
        assert set(self.answers(jobs)) == set(self.workers)
        assert self.executor.failure is None
        assert self.spawner.unready is None


@contextlib.asynccontextmanager
async def started(**options: Any) -> AsyncIterator[Service]:
    """A service, until all of its processes have ended."""
    service = Service(fork_app.executor(**{"workers": 2, **options}))
    await service.executor.start(service.finished.append)
    checking = asyncio.create_task(service.check())
    try:
        await service.all_ready()
        yield service
    finally:
        checking.cancel()
        pids = {service.server, *(link.pid for link in service.links)} - {None}
        await service.executor.stop(2.0)
        await until(lambda: not any(alive(pid) for pid in pids if pid is not None))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the habits of the fork server are; see fork_app."""
    monkeypatch.setenv("FORK_APP_FOLDER", str(tmp_path))
    return tmp_path


@contextlib.contextmanager
def habit(folder: Path, name: str) -> Iterator[None]:
    """The time in which the fork server has a bad habit."""
    (folder / name).touch()
    try:
        yield
    finally:
        (folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def no_more_files(pid: int = 0, limit: int = 3) -> Iterator[None]:
    """The time in which a process cannot open anything; here by default."""
    old = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, old[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, old)


def watched() -> int:
    """How many descriptors the loop watches."""
    selector = getattr(asyncio.get_running_loop(), "_selector")  # noqa: B009 - not in its type
    return len(selector.get_map())


def open_files(pid: int | None = None) -> set[int]:
    """The descriptors of a process, of this one by default."""
    return {int(path.name) for path in Path(f"/proc/{pid or os.getpid()}/fd").iterdir()}


# It ends, hangs, or does not do as it should


async def test_workers_outlive_their_fork_server(folder: Path) -> None:
    """The same processes answer, and another fork server makes those that are needed later."""
    del folder
    async with started() as service:
        old, workers = service.server, set(service.workers)
        os.kill(old, signal.SIGKILL)
        await until(lambda: service.server != old and service.spawner._requests._serving)
        jobs = [service.submit() for _ in range(2)]
        await until(lambda: len(service.answers(jobs)) == 2)
        assert set(service.answers(jobs)) == workers == set(service.workers)
        healthy = await service.kill_all_but_one()
        await service.recovers([service.submit(), service.submit()], healthy)


async def test_a_stopped_fork_server_is_replaced(folder: Path) -> None:
    """Its limit counts from the request; the healthy worker goes on meanwhile and afterwards."""
    del folder
    with capture_logs() as logs:
        async with started() as service:
            old = service.server
            os.kill(old, signal.SIGSTOP)
            healthy = await service.kill_all_but_one()
            jobs = await service.goes_on_with(healthy)
            await service.recovers(jobs, healthy)
            assert service.server != old
            await until(lambda: not alive(old))
    reasons = [entry["reason"] for entry in logs if entry["event"].startswith("fork server replaced")]
    assert reasons == ["the fork server was replaced: it did not answer a request within 1 s"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hangs", "did not answer"),
        ("scribbles", "nonsense"),
        ("closes", "ended with signal 9"),
    ],
)
async def test_a_fork_server_that_misbehaves(folder: Path, name: str, reason: str) -> None:
    """It is replaced without blocking the bus, also when it has closed its socket and lives on."""
    with capture_logs() as logs:
        async with started() as service:
            old = service.server
            with habit(folder, name):
                healthy = await service.kill_all_but_one()
                jobs = await service.goes_on_with(healthy)
                await until(lambda: service.server != old)
                assert not alive(old)
            await service.recovers(jobs, healthy)
    assert any(reason in entry.get("reason", "") for entry in logs if "fork server" in entry["event"])


async def test_the_import_may_fail_the_second_time(folder: Path) -> None:
    """It is tried again: the app was loaded before, and a worker goes on."""
    async with started() as service:
        with habit(folder, "broken"):
            old = service.server
            os.kill(old, signal.SIGKILL)
            await until(lambda: "it is broken" in (service.spawner.unready or ""))
            healthy = await service.kill_all_but_one()
            jobs = await service.goes_on_with(healthy)
        await service.recovers(jobs, healthy)


async def test_there_is_a_failure_when_there_is_no_worker(folder: Path) -> None:
    """Not while one is alive, however long; and it says why."""
    options = {"timeouts": ForkTimeouts(answer_s=1.0, give_up_s=0.0), "spares": 0}
    service = Service(process_app.executor(app="support.fork_app:app", **options))
    await service.executor.start(service.finished.append)
    await until(lambda: all(link.ready for link in service.links))
    with habit(folder, "no-memory"):
        spare = service.spawner.take()
        await until(lambda: service.spawner.unready is not None)
        assert service.executor.failure is None
        spare.kill()
        os.kill(service.workers[0], signal.SIGKILL)
        await until(lambda: service.executor.failure is not None)
        reason = "a worker process cannot be forked: Cannot allocate memory"
        assert service.executor.failure == f"there has been no worker process for 0 s: {reason}"
        service.executor.check(asyncio.get_running_loop().time())
    await until(lambda: service.executor.failure is None)
    await service.executor.stop(1.0)


async def test_an_app_that_has_its_children_reaped(folder: Path) -> None:
    """SIGCHLD is ignored: the fork server does without their status."""
    with habit(folder, "reaps"):
        async with started() as service:
            server, healthy = service.server, await service.kill_all_but_one()
            await service.recovers([service.submit(), service.submit()], healthy)
            assert service.server == server


# There is no room


async def test_a_fork_that_fails(folder: Path) -> None:
    """It is requested again after a pause and logged once; the fork server and the other worker go on."""
    with capture_logs() as logs:
        async with started() as service:
            server = service.server
            with habit(folder, "no-memory"):
                healthy = await service.kill_all_but_one()
                jobs = await service.goes_on_with(healthy)
                await until(lambda: service.spawner._requests.backoff.failures >= 4)
                assert service.spawner.unready == "a worker process cannot be forked: Cannot allocate memory"
            await service.recovers(jobs, healthy)
            assert service.server == server
    assert len([entry for entry in logs if entry["event"].startswith("no worker process can be made")]) == 1


@pytest.mark.parametrize("room", [0, 1])
async def test_the_fork_server_has_too_many_open_files(folder: Path, room: int) -> None:
    """It says so, whether a worker's descriptors do not arrive or there is none for the handle on it."""
    del folder
    async with started() as service:
        server = service.server
        used = open_files(server)
        free = [number for number in range(256) if number not in used]
        with no_more_files(server, free[room]):  # the two of the killed workers will be free as well
            healthy = await service.kill_all_but_one()
            jobs = await service.goes_on_with(healthy)
            await until(lambda: service.spawner._requests.backoff.failures >= 3)
            assert service.spawner.unready == "a worker process cannot be forked: Too many open files"
        await service.recovers(jobs, healthy)
        assert service.server == server
        assert open_files(server) == used
        assert children(server) == {link.pid for link in service.links}


async def test_the_bus_has_too_many_open_files(folder: Path) -> None:
    """No link can be opened: the patrol goes on, and so does the healthy worker."""
    del folder
    async with started() as service:
        with no_more_files():
            healthy = await service.kill_all_but_one()
            jobs = await service.goes_on_with(healthy)
            await until(lambda: service.spawner._requests.backoff.failures >= 2)
            assert service.spawner.unready == "a request cannot be sent: Too many open files"
        await service.recovers(jobs, healthy)


async def test_the_handle_on_a_worker_does_not_arrive(folder: Path) -> None:
    """The worker that cannot be watched is killed, and another one takes its place."""
    del folder
    async with started() as service:
        link = service.spawner.take()
        with no_more_files():
            await until(lambda: service.spawner.unready is not None)
        assert service.spawner.unready == "a worker process cannot be watched: too many open files"
        await until(lambda: len(service.links) == 3 and all(one.ready for one in service.links))
        await until(lambda: children(service.server) == {one.pid for one in service.links})
        link.kill()


async def test_a_link_that_is_killed_before_it_has_its_process(folder: Path) -> None:
    """The process that was on its way ends too."""
    del folder
    async with started() as service:
        service.spawner.take()
        for link in service.links:
            if link.pid is None:
                link.kill()
                assert link.gone
        link = service.spawner.take()
        await until(lambda: link.ready)
        await until(lambda: children(service.server) == {link.pid for link in service.links})


async def test_what_is_kept_for_a_process_is_limited(folder: Path) -> None:
    """A link whose process does not come ends when too much was written to it; another takes its place."""
    del folder
    async with started() as service:
        os.kill(service.server, signal.SIGSTOP)
        await service.kill_all_but_one()
        (waiting,) = service.spawner._requests._sent
        while not waiting.gone:
            waiting.write(bytes(1 << 20))
        await service.all_ready()
        assert waiting not in service.links


async def test_a_fork_server_cannot_be_restarted(folder: Path) -> None:
    """There is no room for it: another attempt is made later, and the workers go on."""
    del folder
    async with started() as service:
        old, workers = service.server, set(service.workers)
        with no_more_files():
            os.kill(old, signal.SIGKILL)
            await until(lambda: "cannot be started: Too many" in (service.spawner.unready or ""))
            jobs = [service.submit() for _ in range(2)]
            await until(lambda: len(service.answers(jobs)) == 2)
        assert set(service.answers(jobs)) == workers
        healthy = await service.kill_all_but_one()
        await service.recovers([service.submit(), service.submit()], healthy)


async def test_workers_that_end_before_they_are_ready(folder: Path) -> None:
    """They are made again after a pause that grows, not as fast as they can be forked."""
    async with started() as service:
        with habit(folder, "stillborn"):
            healthy = await service.kill_all_but_one()
            await until(lambda: service.spawner._requests.backoff.failures >= 3)
            assert service.spawner.unready == "worker processes end before they are ready"
        await until(lambda: service.spawner.unready is None)
        await service.all_ready()
        assert healthy in service.workers


# The start and the end


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("name", ["slow", "hangs"])
async def test_a_start_that_is_cancelled(folder: Path, name: str, times: int) -> None:
    """While the app is imported, or a worker forked: nothing is left, even when cancelled again."""
    before, executor = (open_files(), watched()), fork_app.executor()
    others = children(os.getpid())
    with habit(folder, name):
        starting = asyncio.create_task(executor.start(lambda _: None))
        await until((folder / f"{name}-now").exists)
        for _ in range(times):
            starting.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert (open_files(), watched()) == before
        await until(lambda: not alive(pids_of(executor)[0]))
        await until(lambda: children(os.getpid()) <= others)


async def test_a_start_that_takes_too_long(folder: Path) -> None:
    """The import has a limit of its own; nothing is left."""
    before, executor = (open_files(), watched()), fork_app.executor(timeouts=ForkTimeouts(load_s=0.2))
    with habit(folder, "slow"), pytest.raises(ConfigurationError, match="takes more than"):
        await executor.start(lambda _: None)
    assert (open_files(), watched()) == before
    assert not alive(pids_of(executor)[0])


@pytest.mark.parametrize(
    ("name", "reason"), [("stillborn", "ready within 0.2 s"), ("no-memory", "Cannot allocate memory")]
)
async def test_a_start_without_a_worker(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    """It fails, says why, and leaves nothing."""
    monkeypatch.setattr(process_executor, "HELLO_S", 0.2)
    before, executor = (open_files(), watched()), fork_app.executor()
    with habit(folder, name), pytest.raises(ExecutorError, match=reason):
        await executor.start(lambda _: None)
    assert (open_files(), watched()) == before
    assert not alive(pids_of(executor)[0])


async def test_a_start_without_descriptors(folder: Path) -> None:
    """It fails, says why, and leaves nothing."""
    del folder
    before, executor = (open_files(), watched()), fork_app.executor()
    with no_more_files(), pytest.raises(ExecutorError, match="cannot be started: Too many open files"):
        await executor.start(lambda _: None)
    assert (open_files(), watched()) == before


async def test_a_fork_server_that_writes_nonsense_at_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The app's code has its socket too; the start says so."""
    (folder / "scribbling_app.py").write_text("from support.fork_app import _scribble\n_scribble()\n")
    monkeypatch.syspath_prepend(folder)
    executor = process_app.executor(app="scribbling_app:app")
    with pytest.raises(ConfigurationError, match=r"importing scribbling_app:app failed: .* nonsense"):
        await executor.start(lambda _: None)
    assert not alive(pids_of(executor)[0])


async def test_stopping_leaves_nothing(folder: Path) -> None:
    """Whatever state the fork server is in, and with a request on its way."""
    del folder
    before, others = (open_files(), watched()), children(os.getpid())
    async with started() as service:
        os.kill(service.server, signal.SIGSTOP)
        service.spawner.take()
    assert (open_files(), watched()) == before
    assert children(os.getpid()) <= others


async def test_the_death_of_the_bus_ends_workers_whose_fork_server_died_before(folder: Path) -> None:
    """Also one that holds its interpreter: the kernel kills it."""
    del folder
    program = [sys.executable, "-c", "from support.fork_app import outlive; outlive()"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(program, stdout=subprocess.PIPE, env=environment) as bus:
        assert bus.stdout is not None
        lines = iter(bus.stdout.readline, b"")
        pids = await asyncio.to_thread(lambda: next(line for line in lines if line.startswith(b"pids")))
        numbers = [int(word) for word in pids.split()[1:]]
        assert len(numbers) == 3
        assert all(map(alive, numbers))
        bus.kill()
    await until(lambda: not any(map(alive, numbers)))


async def test_threads_of_the_app_are_named_once(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Also those that Python does not know, as of gRPC and OpenMP; with what to do."""
    with habit(folder, "thread"):
        async with started():
            pass
    output = "".join(capfd.readouterr())
    assert output.count("importing the app started threads") == 1
    assert "grpc_poller" in output
    assert "@app.resource" in output


# The counting


def test_trouble_pauses_longer_and_logs_now_and_then() -> None:
    """Until something succeeds."""
    backoff = Backoff()
    assert not backoff.succeeded()
    pauses, logged = [], []
    for second in range(30):
        logged.append(backoff.failed("no room", float(second)))
        pauses.append(backoff.pause_s)
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_PAUSE_S
    assert [second for second, due in enumerate(logged) if due] == [0, LOG_EVERY_S, 2 * LOG_EVERY_S]
    assert backoff.succeeded()
    assert backoff.reason is None
    assert backoff.failed("no room", 30.0)
    assert backoff.pause_s == pauses[0]
