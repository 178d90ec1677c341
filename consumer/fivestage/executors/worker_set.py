"""Which workers there are, and which of them get jobs. Used from the bus loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.executors.worker import Stall, Worker

MAX_STALLED: Final = 64
"""So many stalled workers are replaced; with more of them queries wait in one of these."""
SPARE_AFTER_S: Final = 0.25
"""A stalled worker that comes back by then costs no new spare."""
TRIM_AFTER_S: Final = 5.0
"""How long there may be more workers than needed, before one of them ends."""
MAKE_AGAIN_S: Final = 1.0
"""The pause after a worker could not be made."""

log = structlog.get_logger("fivestage.executor")


class WorkerSet:
    """Keeps as many workers ready as are wanted, besides those that are stalled.

    Args:
        make: Makes a worker, which calls *on_ready* once. Raises OSError or RuntimeError where the system has
            no room for it.
        size: How many get jobs.
        spares: How many more are kept ready.
    """

    def __init__(self, make: Callable[[Callable[[], None]], Worker], *, size: int, spares: int) -> None:
        self._make = make
        self._size = size
        self._spares = spares
        self.all: list[Worker] = []
        """Those that may get jobs; the first of them that can do."""
        self.active: list[Worker] = []
        """Those that do get jobs."""
        self.stalled: dict[Worker, Stall] = {}
        """Those whose loops do not turn."""
        self.retired: list[Worker] = []
        """They get no more jobs, and end with the last one they have."""
        self._make_again_at = 0.0
        self._too_many_since: float | None = None

    def __repr__(self) -> str:
        return f"{self.all} stalled={len(self.stalled)} retired={self.retired}"

    def launch(self) -> None:
        """Make the first ones; raises what making them raises."""
        self.all = [self._make(self.choose) for _ in range(self._size + self._spares)]
        self.choose()

    def choose(self) -> None:
        """Decide which workers get jobs: ready ones; else those that will be; else any."""
        turning = [worker for worker in self.all if worker not in self.stalled]
        ready = [worker for worker in turning if worker.ready]
        self.active = ready[: self._size] or turning[: self._size] or self.all

    @property
    def is_ready(self) -> bool:
        """Whether a worker that gets jobs runs them at once."""
        return any(worker.ready and worker not in self.stalled for worker in self.active)

    def others(self, blocked: Worker) -> list[Worker]:
        """Those that may take a job which *blocked* cannot."""
        others = [one for one in self.all if one.ready and one is not blocked and one not in self.stalled]
        return others or self.active

    @property
    def unsettled(self) -> bool:
        """Something is to change, with time alone."""
        undecided = any(not worker.ready or worker.registry.left for worker in self.all)
        return bool(self.stalled or self.retired or undecided or self._too_many_since is not None)

    def keep_up(self, now: float) -> None:
        """Make a worker where one is missing; end one where there has been one too many for a while."""
        turning, wanted = len(self.all) - len(self.stalled), self._size + self._spares
        about_to_turn = sum(now - stall.since < SPARE_AFTER_S for stall in self.stalled.values())
        if turning < self._size or turning + about_to_turn < wanted:
            self.add(now)
        if turning <= wanted:
            self._too_many_since = None
        elif self._too_many_since is None:
            self._too_many_since = now
        elif now - self._too_many_since > TRIM_AFTER_S:
            self._too_many_since = now
            self._trim()

    def add(self, now: float) -> None:
        """Make a worker, unless there are too many or there was no room for one just now."""
        if now < self._make_again_at or len(self.stalled) > MAX_STALLED:
            return
        try:
            self.all.append(self._make(self.choose))
        except (OSError, RuntimeError) as error:  # no more descriptors, or threads
            self._make_again_at = now + MAKE_AGAIN_S
            what = f"{type(error).__name__}: {error}"
            log.error("no worker could be made", error=what, again_s=MAKE_AGAIN_S)  # noqa: TRY400
        self.choose()

    def _trim(self) -> None:
        """End the last worker that has nothing to do."""
        idle = [one for one in self.all if not (one.registry or one.registry.left or one in self.stalled)]
        if idle:
            self.retire(idle[-1])

    def retire(self, worker: Worker) -> Stall | None:
        """Give a worker no more jobs; returns what stalls it."""
        self.all.remove(worker)
        self.retired.append(worker)
        stall = self.stalled.pop(worker, None)
        self.choose()
        return stall

    def drop(self, worker: Worker) -> None:
        """A worker has ended."""
        self.all.remove(worker)
        self.stalled.pop(worker, None)
        self.choose()
