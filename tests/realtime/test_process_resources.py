"""Resources in worker processes: opened by each before its first query, closed in order at its end."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from fivestage import Plan, ResourceError
from fivestage.executors.process.executor import ProcessExecutor
from fivestage.executors.process.fork_requests import ForkTimeouts
from fivestage_schemas import StageType
from support import resource_app
from support.files import Gate, notes
from support.jobs import LIMIT_S, Bus, Replacements, answer_of, started, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from fivestage.core.job import Job

pytestmark = pytest.mark.realtime
LONG_S = 120.0
PLAN = Plan.of(total_timeout_ms=LONG_S * 1000, stage_timeouts_ms=dict.fromkeys(StageType, 30_000.0))
SOON_S = 0.3
"""For wanted stalls; with less, a busy machine causes false ones."""


class Shop:
    """The app in worker processes, and its notes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.observer = Replacements()

    @contextlib.asynccontextmanager
    async def running(
        self, *, workers: int = 1, spares: int = 0, open_s: float = LIMIT_S, stall_s: float = LONG_S
    ) -> AsyncIterator[Bus]:
        """Run it in an executor."""
        options: dict[str, Any] = {"workers": workers, "spares": spares, "stall_s": stall_s}
        executor = ProcessExecutor(
            "support.resource_app:app",
            PLAN,
            threads=8,
            observer=self.observer,
            max_data_bytes=1_000_000,
            timeouts=ForkTimeouts(open_s=open_s),
            **options,
        )
        bus = Bus(executor, PLAN)
        async with started(bus):
            yield bus

    def notes(self, start: str = "") -> list[str]:
        """Return the notes so far with this prefix."""
        return [line for line in notes(self.folder) if line.startswith(start)]

    async def opened(self, count: int) -> list[int]:
        """Wait until this many workers have opened everything; return their numbers in order."""
        await until(lambda: len(self.notes("open model")) == count)
        return [int(line.split()[-1]) for line in self.notes("open model")]

    def of(self, pid: int) -> list[str]:
        """Return the notes of one process."""
        return [line.rpartition(" ")[0] for line in self.notes() if line.endswith(f" {pid}")]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Return the app, not started."""
    monkeypatch.setenv(resource_app.VARIABLE, str(tmp_path))
    return Shop(tmp_path)


def pid_of(job: Job) -> int:
    """Return the process that answered a query."""
    return int(answer_of(job) or b"")


OPENED = ["open client", "open model"]
CLOSED = ["close model", "close client"]


async def test_each_worker_opens_its_own_before_the_first_query(shop: Shop) -> None:
    """They open in order of declaration; all queries use them; the end closes them in reverse."""
    async with shop.running(workers=2) as bus:
        assert shop.notes("open client")
        pids = await shop.opened(2)
        assert [shop.of(pid) for pid in pids] == [OPENED] * 2
        jobs = [bus.submit("uses") for _ in range(100)]
        await bus.ended(*jobs)
    assert {pid_of(job) for job in jobs} <= set(pids)
    assert [shop.of(pid) for pid in pids] == [OPENED + CLOSED] * 2
    assert len(shop.notes()) == 2 * len(OPENED + CLOSED)
    assert shop.observer.reasons == []


async def test_a_spare_has_opened_its_own(shop: Shop) -> None:
    """While a node blocks the first worker, queries use the resources that the spare had opened."""
    async with shop.running(spares=1, stall_s=SOON_S) as bus:
        pids = await shop.opened(2)
        with Gate(shop.folder, "blocks").closed() as gate:
            blocking_job = bus.submit("blocks")
            await until(lambda: shop.observer.stalled)
            job = await bus.ask("uses")
            gate.open()
            await bus.ended(blocking_job)
        assert job.place is not blocking_job.place
        assert pid_of(job) in pids
        assert shop.observer.reasons == []
    assert [shop.of(pid) for pid in pids] == [OPENED + CLOSED] * 2


async def test_a_resource_is_closed_after_the_last_query(shop: Shop) -> None:
    """A query cancelled by the shutdown still finds it open in its clean-up."""
    async with shop.running() as bus:
        job = bus.submit("waits")
        await bus.processing(job)
        [pid] = await shop.opened(1)
        await bus.ask("uses")  # the node has been called by now
    assert shop.of(pid) == [*OPENED, "last use while open: True", *CLOSED]


async def test_a_replacement_opens_its_own(shop: Shop) -> None:
    """Without a spare, queries wait until the replacement is ready."""
    async with shop.running(stall_s=SOON_S) as bus:
        [pid] = await shop.opened(1)
        with Gate(shop.folder, "slow").closed() as slow, Gate(shop.folder, "blocks").closed() as gate:
            blocking_job = bus.submit("blocks")
            await until(lambda: len(shop.notes("open client")) == 2)
            job = bus.submit("uses")
            slow.open()
            await bus.ended(job)
            gate.open()
            await bus.ended(blocking_job)
    assert pid_of(job) != pid


async def test_a_resource_that_opens_at_the_second_attempt(shop: Shop) -> None:
    """The start goes on in the same process."""
    (shop.folder / "fails-once").touch()
    async with shop.running() as bus:
        [pid] = await shop.opened(1)
        assert pid_of(await bus.ask("uses")) == pid
    assert shop.observer.reasons == []


async def test_a_resource_that_does_not_open_ends_the_start(shop: Shop) -> None:
    """The error has its name and the author's error; opened resources are closed again."""
    (shop.folder / "broken").touch()
    with pytest.raises(ResourceError) as raised:
        async with shop.running(open_s=0.3):
            pass
    text = str(raised.value)
    assert "resource 'model' could not be opened within 0.3 s (executor.start_timeout_ms)" in text
    assert "ConnectionRefusedError: the database is away" in text
    assert "resource_app.py" in text
    assert [line.rpartition(" ")[0] for line in shop.notes()] == ["open client", "close client"]


async def test_a_resource_that_takes_too_long_ends_the_start(shop: Shop) -> None:
    """The error names the resource and the setting."""
    with Gate(shop.folder, "slow").closed(), pytest.raises(ResourceError) as raised:
        async with shop.running(open_s=0.3):
            pass
    assert str(raised.value).startswith(
        "resource 'model' was not open within 0.3 s (executor.start_timeout_ms)"
    )
