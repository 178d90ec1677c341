"""Decides how many workers there are, and which of them get jobs. Used from the bus loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.executors.worker import Stall, Worker

MAX_STALLED: Final = 64
"""Stalled workers that are replaced; with more, queries wait in stalled ones."""
SPARE_AFTER_S: Final = 0.25
"""Seconds of a worker's stall after which another spare is made."""
TRIM_AFTER_S: Final = 5.0
"""Seconds that there may be more workers than needed before one of them is retired."""
MAKE_AGAIN_S: Final = 1.0
"""Seconds to pause after a worker could not be started."""

log = structlog.get_logger("fivestage.executor")


class WorkerSet:
    """Keeps enough workers ready besides those that are stalled.

    Args:
        make: Makes a worker, which calls the given function once it is ready. Raises OSError or RuntimeError
            if the system has no room for it.
        size: The number of workers that get jobs.
        spares: The number of further workers that are kept ready.
    """

    def __init__(self, make: Callable[[Callable[[], None]], Worker], *, size: int, spares: int) -> None:
        self._make = make
        self._size = size
        self._spares = spares
        self.members: list[Worker] = []
        """The workers that are not retired, also stalled ones, in the order of preference."""
        self.active: list[Worker] = []
        """The workers that get jobs now."""
        self.stalled: dict[Worker, Stall] = {}
        """The workers whose loops are blocked."""
        self.retired: list[Worker] = []
        """The workers that get no more jobs, and end with their last job."""
        self._make_again_at = 0.0
        self._too_many_since: float | None = None

    def __repr__(self) -> str:
        return f"{self.members} stalled={len(self.stalled)} retired={self.retired}"

    def launch(self) -> None:
        """Make the first workers; raises what making them raises."""
        self.members = [self._make(self.choose) for _ in range(self._size + self._spares)]
        self.choose()

    def choose(self) -> None:
        """Choose the workers that get jobs: ready ones; else those getting ready; else stalled ones."""
        running = [worker for worker in self.members if worker not in self.stalled]
        ready = [worker for worker in running if worker.ready]
        self.active = ready[: self._size] or running[: self._size] or self.members

    @property
    def is_ready(self) -> bool:
        """Whether a worker that gets jobs runs them at once."""
        return any(worker.ready and worker not in self.stalled for worker in self.active)

    def others(self, blocked: Worker) -> list[Worker]:
        """Return the workers for a job that *blocked* cannot run."""
        others = [one for one in self.members if one.ready and one is not blocked and one not in self.stalled]
        return others or self.active

    @property
    def unsettled(self) -> bool:
        """Whether something changes with time alone, so that the workers must be checked without jobs too."""
        undecided = any(not worker.ready or worker.registry.left for worker in self.members)
        return bool(self.stalled or self.retired or undecided or self._too_many_since is not None)

    def keep_up(self, now: float) -> None:
        """Add a worker if one is missing; retire one if there has been one too many for a while."""
        running, wanted = len(self.members) - len(self.stalled), self._size + self._spares
        just_stalled = sum(now - stall.since < SPARE_AFTER_S for stall in self.stalled.values())
        if running < self._size or running + just_stalled < wanted:
            self.add(now)
        if running <= wanted:
            self._too_many_since = None
        elif self._too_many_since is None:
            self._too_many_since = now
        elif now - self._too_many_since > TRIM_AFTER_S:
            self._too_many_since = now
            self._trim()

    def add(self, now: float) -> None:
        """Add a worker, unless too many are stalled or the last attempt has just failed."""
        if now < self._make_again_at or len(self.stalled) > MAX_STALLED:
            return
        try:
            self.members.append(self._make(self.choose))
        except (OSError, RuntimeError) as error:  # no more descriptors, or threads
            self._make_again_at = now + MAKE_AGAIN_S
            what = f"{type(error).__name__}: {error}"
            log.error("no worker could be started", error=what, retry_in_s=MAKE_AGAIN_S)  # noqa: TRY400
        self.choose()

    def _trim(self) -> None:
        """Retire the last idle worker."""
        idle = [one for one in self.members if not (one.registry or one.registry.left or one in self.stalled)]
        if idle:
            self.retire(idle[-1])

    def retire(self, worker: Worker) -> Stall | None:
        """Give a worker no more jobs; return its stall if it is stalled."""
        self.retired.append(worker)
        return self.remove(worker)

    def remove(self, worker: Worker) -> Stall | None:
        """Take a worker out of the set; return its stall if it was stalled."""
        self.members.remove(worker)
        stall = self.stalled.pop(worker, None)
        self.choose()
        return stall
