"""Executors of each kind that run the same app, and the directory that app and test share."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from fivestage import Orchestrator, Plan, StageType
from fivestage.executors import InlineExecutor, ThreadExecutor
from fivestage.executors.process.executor import ProcessExecutor
from fivestage.executors.process.worker import ProcessWorker
from fivestage.executors.worker_pool import WorkerPool
from support.files import Gate, notes
from support.jobs import Bus, Replacements, started, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from types import ModuleType

    import pytest

    from fivestage.executors import Executor

PLAN = Plan.of(
    total_timeout_ms=60_000,
    stage_timeouts_ms=dict.fromkeys(StageType, 60_000.0),
    critical=StageType,
)
"""Each stage may take the whole time, so any wait costs a query its answer."""
STALL_S = 0.5
"""For wanted stalls: longer than a busy machine delays a thread."""
LONG_S = 120.0
"""The stall limit where no stall is wanted: a busy machine causes false ones."""


class Place:
    """An app, whose module has ``make(folder)`` and ``app``, in an executor of one kind.

    Args:
        module: The app's.
        kind: ``inline``, ``thread`` or ``process``.
        folder: The directory of the app's gates and notes.
        monkeypatch: Names the folder in the module's VARIABLE, where worker processes find it.
    """

    def __init__(self, module: ModuleType, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(module.VARIABLE, str(folder))
        self._module = module
        self.kind = kind
        self.folder = folder
        self.observer = Replacements()

    def executor(
        self, plan: Plan, *, threads: int = 16, stall_s: float = LONG_S, spares: int = 1
    ) -> Executor:
        """Return an executor that is not started, with default settings except for stalls."""
        if self.kind == "process":
            return ProcessExecutor(
                f"{self._module.__name__}:app",
                plan,
                workers=1,
                threads=threads,
                observer=self.observer,
                stall_s=stall_s,
                max_data_bytes=1_000_000,
                spares=spares,
            )
        orchestrator = Orchestrator(self._module.make(self.folder), plan=plan, threads=threads)
        if self.kind == "inline":
            return InlineExecutor(orchestrator)
        return ThreadExecutor(orchestrator, observer=self.observer, stall_s=stall_s, spares=spares)

    @contextlib.asynccontextmanager
    async def running(self, plan: Plan, **options: Any) -> AsyncIterator[Bus]:
        """Run an executor with a bus that submits jobs to it and checks it."""
        bus = Bus(self.executor(plan, **options), plan)
        async with started(bus):
            await all_ready(bus.executor)
            yield bus

    def gate(self, name: str) -> Gate:
        """Return a gate that the app's code waits at."""
        return Gate(self.folder, name)

    def notes(self, start: str = "") -> list[str]:
        """Return the notes of nodes with this prefix."""
        return [line for line in notes(self.folder) if line.startswith(start)]

    async def noted(self, line: str, count: int = 1) -> None:
        """Wait for a note."""
        await until(lambda: notes(self.folder).count(line) >= count, f"the note {line!r}")


async def all_ready(executor: Executor) -> None:
    """Wait for the spares too, so that it is known which worker gets the queries."""
    if isinstance(executor, WorkerPool):
        await until(lambda: all(worker.ready for worker in executor.workers), "all workers are ready")


def processes_of(executor: Executor) -> list[int]:
    """Return the executor's processes, if any."""
    return pids_of(executor) if isinstance(executor, ProcessExecutor) else []


def pids_of(executor: ProcessExecutor) -> list[int]:
    """The fork server's process id, then those of the workers that jobs go to."""
    server = None if executor._spawner is None else executor._spawner._requests.server
    pids = [None if server is None else server.pid]
    pids += [worker.link.pid for worker in executor.workers if isinstance(worker, ProcessWorker)]
    return [pid for pid in pids if pid is not None]


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:  # noqa: PTH123 - quicker
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def in_this_process(pid: int) -> bool:
    """Return whether the answering code ran in the test's own process."""
    return pid == os.getpid()
