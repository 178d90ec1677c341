"""Runs user code in worker processes: what the code does to its process affects no other."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fivestage.core.deadline import DEADLINE_HEADER
from fivestage.errors import ConfigurationError, ExecutorError, ResourceError
from fivestage.executors.executor import TICK_S
from fivestage.executors.process import messages
from fivestage.executors.process.fork_requests import ForkTimeouts
from fivestage.executors.process.overtime import Overtime
from fivestage.executors.process.spawner import Spawner
from fivestage.executors.process.worker import HELLO_S, RUN_ON_S, ProcessWorker
from fivestage.executors.worker import ReplacementReason, Worker
from fivestage.executors.worker_pool import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fivestage.core.observer import Observer
    from fivestage.core.plan import Plan
    from fivestage.executors.executor import OnFinished

NEEDED: Final = ("memfd_create", "pidfd_open")
"""Functions of ``os`` that there are on Linux only."""
SERVER_STOP_S: Final = 0.5
"""Seconds of the time to stop that are kept for the fork server."""


class Setup(NamedTuple):
    """Functions to call in the fork server: each ``MODULE:FUNCTION``, and the texts to call it with."""

    server: Sequence[str]
    worker: Sequence[str] = ()
    """Returns a function that each worker calls first, see ``WorkerConfig.on_start``."""


class ProcessExecutor(WorkerPool):
    """Runs jobs in worker processes: for CPU, and for code that may block, crash or never end.

    It has no local queue: from a process nothing can be taken back at once.

    Args:
        app_path: ``MODULE:APP``, imported in another process; the built-in Pipeline when None.
        plan: Limits and criticality.
        workers: The number of processes that run jobs.
        threads: How many blocking (``def``) stages and nodes may run at a time in each process.
        observer: Notified when a worker stalls or is replaced.
        stall_s: Seconds that one step of user code may take.
        max_data_bytes: Larger data and answers of stages are left out.
        setup: What to call before the app is imported.
        spares: The number of further processes that are kept ready.
        timeouts: How long importing the app, opening its resources, and forking may take.
        nodes: The settings of nodes and resources: values by name and key.
        deadline_header: See ``Orchestrator``.

    Raises:
        ConfigurationError: this system is not Linux.
    """

    def __init__(  # noqa: PLR0913 - by keyword
        self,
        app_path: str | None,
        plan: Plan,
        *,
        workers: int,
        threads: int,
        observer: Observer,
        stall_s: float,
        max_data_bytes: int,
        setup: Setup | None = None,
        spares: int = 1,
        timeouts: ForkTimeouts | None = None,
        nodes: Mapping[str, Mapping[str, Any]] | None = None,
        deadline_header: str = DEADLINE_HEADER,
    ) -> None:
        _check_system()
        self._timeouts = timeouts or ForkTimeouts()
        self._config = {
            "app": app_path,
            "plan": messages.encode_plan(plan),
            "threads": threads,
            "max_data_bytes": max_data_bytes,
            "deadline_header": deadline_header,
            "setup": list(setup.server) if setup else [],
            "worker_setup": list(setup.worker) if setup else [],
            "open_s": self._timeouts.open_s,
            "nodes": json.dumps(nodes or {}),  # unlike orjson it keeps integers of any size, and infinity
        }
        self._stall_s = stall_s
        self.run_on_s = RUN_ON_S
        """Seconds that code may run on after its query's end before its process is replaced."""
        self._left_out = b'"%b"' % (b" " * max_data_bytes)  # the encoder rejects it for its size
        self._spawner: Spawner | None = None
        self._errors: list[str] = []
        """Why workers could not open their resources, until a worker is ready."""
        self._overtime = Overtime[Worker]()
        super().__init__(
            self._make, size=workers, spares=spares, stall_ms=round(stall_s * 1000), observer=observer
        )

    async def start(self, on_finished: OnFinished) -> None:
        """See Executor. Returns when the first worker is ready.

        Raises:
            InvalidAppError: there is no app at the path, or importing it raised.
            ConfigurationError: the setup function raised, or the fork server ended or took too long.
            ResourceError: one of the app's resources cannot be opened.
            ExecutorError: no worker process became ready.
        """
        self._spawner = spawner = Spawner(self._config, self._timeouts)
        try:
            await spawner.start()
            self.launch(on_finished)
            await self._first_ready(spawner)
        except BaseException:
            self._ending = True
            await spawner.stop(0.0)
            raise

    def _hello_s(self, spawner: Spawner) -> float:
        """Return the seconds that a worker may take to be ready."""
        return HELLO_S + (self._timeouts.open_s if spawner.has_resources else 0.0)

    async def _first_ready(self, spawner: Spawner) -> None:
        """Wait for a worker; replace those that die meanwhile."""
        clock = asyncio.get_running_loop().time
        limit_s = self._hello_s(spawner)
        ends_at = clock() + limit_s
        while self.unready is not None:
            if self._errors:
                raise ResourceError(self._errors[0])
            if clock() > ends_at:
                text, why = f"no worker process was ready within {limit_s:g} s", spawner.unready
                raise ExecutorError(text if why is None else f"{text}: {why}")
            self.check(clock())
            await asyncio.sleep(TICK_S)

    def check(self, now: float) -> bool:
        """See Executor."""
        found = super().check(now)
        calls = [(worker, one) for worker in self.workers for one in worker.abandoned()]
        if calls:
            for worker in self._overtime.too_much(calls, now):
                self._retire(worker, ReplacementReason.COMPUTES_ON)
        return found

    @property
    def failure(self) -> str | None:
        """See Executor."""
        return None if self._spawner is None else self._spawner.failure

    async def stop(self, timeout_s: float) -> None:
        """See Executor."""
        for_the_server_s = min(SERVER_STOP_S, timeout_s / 2)
        try:
            await self.shut_down(timeout_s - for_the_server_s)
        finally:
            if self._spawner is not None:
                await self._spawner.stop(for_the_server_s)

    def _make(self, on_finished: OnFinished, on_ready: Callable[[], None]) -> ProcessWorker:
        assert self._spawner is not None  # noqa: S101 - workers are made after the start
        link = self._spawner.take()
        link.on_ready = on_ready
        worker = ProcessWorker(
            link, on_finished, self._stall_s, self._left_out, self.run_on_s, self._hello_s(self._spawner)
        )
        if self.unready is not None:
            worker.on_error = self._errors.append
        return worker


def _check_system() -> None:
    if not all(hasattr(os, name) for name in NEEDED):
        raise ConfigurationError(
            f"worker processes need Linux, and this is {sys.platform}: use executor.kind = 'thread' here "
            "(FIVESTAGE_EXECUTOR__KIND=thread)"
        )
