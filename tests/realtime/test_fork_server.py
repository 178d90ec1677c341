"""A fork server that fails, hangs or lacks resources affects no worker; real processes and limits."""

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
from fivestage.executors.process import messages
from fivestage.executors.process.backoff import LOG_EVERY_S, MAX_PAUSE_S, Backoff
from fivestage.executors.process.fork_requests import ForkTimeouts
from support import fork_app, process_app
from support.jobs import until
from support.kinds import alive, pids_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from fivestage.executors.process.connection import WorkerLink
    from fivestage.executors.process.executor import ProcessExecutor
    from fivestage.executors.process.frames import Frame
    from fivestage.executors.process.spawner import Spawner

pytestmark = pytest.mark.realtime


def children(pid: int) -> set[int]:
    """Return the child processes of a process, zombies included."""
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def take_link(service: Service) -> WorkerLink:
    """Take a link that no worker uses; it still notices that its process is ready."""

    def receive(frames: Iterable[Frame]) -> None:
        for frame in frames:
            if frame.kind == messages.HELLO:
                link.note_hello()

    link = service.spawner.take()
    link.on_frames = receive
    return link


class Service:
    """An executor of two workers, checked as the watchdog does."""

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
        """Return all links with a process, or waiting for one."""
        return [link for link in self.spawner._links if not link.gone]

    @property
    def workers(self) -> list[int]:
        """Return the processes that get jobs."""
        return pids_of(self.executor)[1:]

    async def all_ready(self) -> None:
        """Wait until the workers are ready."""
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
        """Return the answers: the numbers of the workers."""
        return [int(job.history.answer_json or b"0") for job in jobs if job in self.finished]

    async def kill_all_but_one(self) -> int:
        """Kill a worker; return the number of the other one."""
        victim, healthy = self.workers
        os.kill(victim, signal.SIGKILL)
        await until(lambda: victim not in self.workers)
        return healthy

    async def goes_on_with(self, healthy: int) -> list[Job]:
        """Have the healthy worker answer two queries."""
        jobs = [self.submit() for _ in range(2)]
        await until(lambda: len(self.answers(jobs)) == 2)
        assert set(self.answers(jobs)) == {healthy}
        return jobs

    async def recovers(self, jobs: list[Job], healthy: int) -> None:
        """Assert that all are answered, and new queries by the healthy and a new worker."""
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
    """Run a service until all of its processes have ended."""
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
    """Return the directory of the fork server's scripted faults; see fork_app."""
    monkeypatch.setenv("FORK_APP_FOLDER", str(tmp_path))
    return tmp_path


@contextlib.contextmanager
def habit(folder: Path, name: str) -> Iterator[None]:
    """Give the fork server a fault for a while."""
    (folder / name).touch()
    try:
        yield
    finally:
        (folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def no_more_files(pid: int = 0, limit: int = 3) -> Iterator[None]:
    """Leave a process, by default this one, without free descriptors for a while."""
    old = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, old[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, old)


def watched() -> int:
    """Return the number of descriptors that the loop watches."""
    selector = getattr(asyncio.get_running_loop(), "_selector")  # noqa: B009 - not in its type
    return len(selector.get_map())


def open_files(pid: int | None = None) -> set[int]:
    """Return the descriptors of a process, by default this one."""
    return {int(path.name) for path in Path(f"/proc/{pid or os.getpid()}/fd").iterdir()}


# Fork servers that end, hang, or misbehave


async def test_workers_outlive_their_fork_server(folder: Path) -> None:
    """The same workers answer after the fork server dies; another one starts workers later."""
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
    """Its time limit runs from the request; the healthy worker continues."""
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
        ("scribbles", "invalid data"),
        ("closes", "ended with signal 9"),
    ],
)
async def test_a_fork_server_that_misbehaves(folder: Path, name: str, reason: str) -> None:
    """A misbehaving fork server, also with a closed socket, is replaced without blocking the service."""
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
    """A failing second import is retried, and a worker continues."""
    async with started() as service:
        with habit(folder, "broken"):
            old = service.server
            os.kill(old, signal.SIGKILL)
            await until(lambda: "it is broken" in (service.spawner.unready or ""))
            healthy = await service.kill_all_but_one()
            jobs = await service.goes_on_with(healthy)
        await service.recovers(jobs, healthy)


async def test_without_a_worker_the_executor_fails(folder: Path) -> None:
    """The executor fails, with the reason, only when no worker is alive."""
    options = {"timeouts": ForkTimeouts(answer_s=1.0, give_up_s=0.0), "spares": 0}
    service = Service(process_app.executor(app="support.fork_app:app", **options))
    await service.executor.start(service.finished.append)
    await until(lambda: all(link.ready for link in service.links))
    with habit(folder, "no-memory"):
        spare = take_link(service)
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


async def test_an_app_that_ignores_sigchld(folder: Path) -> None:
    """With SIGCHLD ignored by the app the fork server works without exit statuses."""
    with habit(folder, "reaps"):
        async with started() as service:
            server, healthy = service.server, await service.kill_all_but_one()
            await service.recovers([service.submit(), service.submit()], healthy)
            assert service.server == server


# Lack of resources


async def test_a_fork_that_fails(folder: Path) -> None:
    """A failed fork is retried after a pause and logged once; fork server and other worker continue."""
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
    """Exhausted descriptors are logged, for a worker's own and for the handle on it."""
    del folder
    async with started() as service:
        server = service.server
        used = open_files(server)
        free = [number for number in range(256) if number not in used]
        with no_more_files(server, free[room]):  # the two of the killed workers are freed too
            healthy = await service.kill_all_but_one()
            jobs = await service.goes_on_with(healthy)
            await until(lambda: service.spawner._requests.backoff.failures >= 3)
            assert service.spawner.unready == "a worker process cannot be forked: Too many open files"
        await service.recovers(jobs, healthy)
        assert service.server == server
        assert open_files(server) == used
        assert children(server) == {link.pid for link in service.links}


async def test_the_service_has_too_many_open_files(folder: Path) -> None:
    """Without descriptors in the service no link opens: the watchdog and the healthy worker continue."""
    del folder
    async with started() as service:
        with no_more_files():
            healthy = await service.kill_all_but_one()
            jobs = await service.goes_on_with(healthy)
            await until(lambda: service.spawner._requests.backoff.failures >= 2)
            assert service.spawner.unready == "a request cannot be sent: Too many open files"
        await service.recovers(jobs, healthy)


async def test_the_handle_on_a_worker_does_not_arrive(folder: Path) -> None:
    """A worker whose handle does not arrive is killed and replaced."""
    del folder
    async with started() as service:
        link = take_link(service)
        with no_more_files():
            await until(lambda: service.spawner.unready is not None)
        assert service.spawner.unready == "a worker process cannot be watched: too many open files"
        await until(lambda: len(service.links) == 3 and all(one.ready for one in service.links))
        await until(lambda: children(service.server) == {one.pid for one in service.links})
        link.kill()


async def test_a_link_that_is_killed_before_it_has_its_process(folder: Path) -> None:
    """A process whose link was killed before it arrived ends too."""
    del folder
    async with started() as service:
        take_link(service)
        for link in service.links:
            if link.pid is None:
                link.kill()
                assert link.gone
        link = take_link(service)
        await until(lambda: link.ready)
        await until(lambda: children(service.server) == {link.pid for link in service.links})


async def test_data_queued_for_a_process_is_limited(folder: Path) -> None:
    """A link without a process ends when too much is queued for it; another takes its place."""
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
    """A fork server that cannot restart for lack of resources is retried; the workers continue."""
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
    """Workers that end before they are ready restart after growing pauses."""
    async with started() as service:
        with habit(folder, "stillborn"):
            healthy = await service.kill_all_but_one()
            await until(lambda: service.spawner._requests.backoff.failures >= 3)
            assert service.spawner.unready == "worker processes end before they are ready"
        await until(lambda: service.spawner.unready is None)
        await service.all_ready()
        assert healthy in service.workers


# Start and shutdown


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("name", ["slow", "hangs"])
async def test_a_start_that_is_cancelled(folder: Path, name: str, times: int) -> None:
    """A start cancelled once or twice, at import or fork, leaves nothing."""
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
    """The import has its own time limit; nothing is left."""
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
    """Without descriptors the start fails with the reason and leaves nothing."""
    del folder
    before, executor = (open_files(), watched()), fork_app.executor()
    with no_more_files(), pytest.raises(ExecutorError, match="cannot be started: Too many open files"):
        await executor.start(lambda _: None)
    assert (open_files(), watched()) == before


async def test_a_fork_server_that_writes_nonsense_at_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The app's code can write to the fork server's socket; the start reports it."""
    (folder / "scribbling_app.py").write_text("from support.fork_app import _scribble\n_scribble()\n")
    monkeypatch.syspath_prepend(folder)
    executor = process_app.executor(app="scribbling_app:app")
    with pytest.raises(ConfigurationError, match=r"importing scribbling_app:app failed: .* invalid data"):
        await executor.start(lambda _: None)
    assert not alive(pids_of(executor)[0])


async def test_stopping_leaves_nothing(folder: Path) -> None:
    """A stop leaves nothing in any state of the fork server, also during a request."""
    del folder
    before, others = (open_files(), watched()), children(os.getpid())
    async with started() as service:
        os.kill(service.server, signal.SIGSTOP)
        take_link(service)
    assert (open_files(), watched()) == before
    assert children(os.getpid()) <= others


async def test_the_death_of_the_service_ends_workers_without_a_fork_server(folder: Path) -> None:
    """Also a worker that holds its interpreter ends: the kernel kills it."""
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
    """Threads unknown to Python, as of gRPC and OpenMP, are named once too, with the remedy."""
    with habit(folder, "thread"):
        async with started():
            pass
    output = "".join(capfd.readouterr())
    assert output.count("importing the app started threads") == 1
    assert "grpc_poller" in output
    assert "@app.resource" in output


# Counting


def test_pauses_grow_and_logs_are_rare() -> None:
    """Pauses grow, and logs are rare, until a success."""
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
