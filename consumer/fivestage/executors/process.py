"""User code in processes of its own: what it does to its process, it does to no other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fivestage.errors import ExecutorError
from fivestage.executors import messages
from fivestage.executors.fleet import Fleet
from fivestage.executors.nursery import LOAD_TIMEOUT_S, Nursery
from fivestage.executors.process_worker import GREETING_S, ProcessWorker
from fivestage.executors.supply import Patience

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fivestage.core.events import Observer
    from fivestage.core.plan import Plan
    from fivestage.executors.port import OnFinished


class ProcessExecutor(Fleet):
    """Runs jobs in worker processes: for CPU, and for code that may block, crash or never end.

    Args:
        app_path: ``MODULE:APP``, imported in another process; the built-in Pipeline when None.
        plan: Limits and criticality.
        workers: How many processes run jobs.
        threads: How many blocking (``def``) stages and nodes may run at a time in each.
        observer: Told of replacements.
        stall_s: How long one step of user code may take.
        max_data_bytes: Data and answers of stages that are larger are left out.
        setup: ``MODULE:FUNCTION`` and the texts to call it with before the app is imported there.
        load_timeout_s: How long importing it may take.
        patience: How long else the fork server may take; *load_timeout_s* is put in.
    """

    def __init__(
        self,
        app_path: str | None,
        plan: Plan,
        *,
        workers: int,
        threads: int,
        observer: Observer,
        stall_s: float,
        max_data_bytes: int,
        setup: Sequence[str] = (),
        load_timeout_s: float = LOAD_TIMEOUT_S,
        patience: Patience | None = None,
    ) -> None:
        self._config = {
            "app": app_path,
            "plan": messages.plan_values(plan),
            "threads": threads,
            "max_data_bytes": max_data_bytes,
            "setup": list(setup),
        }
        self._patience = (patience or Patience())._replace(load_s=load_timeout_s)
        self._stall_s = stall_s
        self._left_out = b'"%b"' % (b" " * max_data_bytes)  # the encoder refuses it for its size
        self._nursery: Nursery | None = None
        super().__init__(self._make, size=workers, observer=observer)

    async def start(self, on_finished: OnFinished) -> None:
        """See Executor. Returns when the first worker is ready.

        Raises:
            InvalidAppError: there is no app at the path.
            ConfigurationError: importing it failed, or took too long.
            ExecutorError: no worker process came up.
        """
        self._nursery = nursery = Nursery(self._config, patience=self._patience)
        try:
            await nursery.start()
            self.launch(on_finished)
            async with asyncio.timeout(GREETING_S):
                await self._first_greeting()
        except BaseException as error:
            why = nursery.trouble
            await nursery.stop(0.0)
            if isinstance(error, TimeoutError):
                text = f"no worker process was ready within {GREETING_S:g} s"
                raise ExecutorError(text if why is None else f"{text}: {why}") from None
            raise

    @property
    def failure(self) -> str | None:
        """See Executor."""
        return None if self._nursery is None else self._nursery.failure

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the app's nodes, after the start."""
        return () if self._nursery is None else self._nursery.nodes

    def pids(self) -> list[int]:
        """The numbers of the processes: the zygote's, then those of the workers that jobs go to."""
        pids = [None if self._nursery is None else self._nursery.pid]
        pids += [worker.link.pid for worker in self._workers if isinstance(worker, ProcessWorker)]
        return [pid for pid in pids if pid is not None]

    async def stop(self, timeout_s: float) -> None:
        """See Executor."""
        try:
            await self.shut_down(timeout_s / 2)
        finally:
            if self._nursery is not None:
                await self._nursery.stop(timeout_s / 2)

    async def _first_greeting(self) -> None:
        for worker in self._workers[:1]:
            assert isinstance(worker, ProcessWorker)  # noqa: S101 - see _make
            await worker.link.greeted.wait()

    def _make(self, on_finished: OnFinished) -> ProcessWorker:
        assert self._nursery is not None  # noqa: S101 - workers are made after the start
        return ProcessWorker(self._nursery.take(), on_finished, self._stall_s, self._left_out)
