"""A supervisor as in every deployment: restarts the service when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Self

from .children import total

if TYPE_CHECKING:
    from collections.abc import Callable

    from .children import Samples, Service

PAUSE_S = 0.2
SCRAPE_S = 0.5


@dataclass
class Life:
    """One run of the service, from its start to its end."""

    service: Service
    gone_at: float = inf
    """When it ended, or announced its end; wall clock."""
    exit_code: int | None = None
    samples: Samples = field(default_factory=dict)
    """The last scrape."""
    peaks: dict[str, float] = field(default_factory=dict)
    """The highest value of each metric in any scrape."""


class Supervisor:
    """Keeps one service running during an ``async with``, and scrapes its metrics.

    Args:
        make: Builds the service, once for each of its lives.
        watched: Metrics whose highest value is recorded.
        with_workers: Whether the service must have worker processes.
    """

    def __init__(
        self, make: Callable[[], Service], watched: tuple[str, ...] = (), *, with_workers: bool = False
    ) -> None:
        self._make = make
        self._with_workers = with_workers
        self._watched = watched
        self._task: asyncio.Task[None] | None = None
        self.lives: list[Life] = []

    async def __aenter__(self) -> Self:
        service = await self._start()
        if not await service.until_ready():
            code = await service.end()
            raise RuntimeError(f"the service ended with {code}: {list(service.log)[-1:]}")
        if self._with_workers and not service.workers():
            await service.end()
            raise RuntimeError("the service has no worker processes: this is not what is to be measured")
        self._task = asyncio.create_task(self._run(service))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        last = self.lives[-1]
        await self._look(last.service)
        last.exit_code = await last.service.end()

    @property
    def restarts(self) -> int:
        """Return how often it ended by itself."""
        return len(self.lives) - 1

    @property
    def outages_ms(self) -> list[tuple[float, float]]:
        """Return intervals from each end, or its announcement, until the next life was ready (epoch ms)."""
        pairs = itertools.pairwise(self.lives)
        return [(one.gone_at * 1000, (other.service.ready_at or inf) * 1000) for one, other in pairs]

    async def _start(self) -> Service:
        service = self._make()
        self.lives.append(Life(service))
        await service.start()
        return service

    async def _run(self, service: Service) -> None:
        while True:
            ending = asyncio.ensure_future(service.exited())
            while not ending.done():
                await asyncio.wait({ending}, timeout=SCRAPE_S)
                await self._look(service)
            ended_at, life = time.time(), self.lives[-1]
            life.exit_code = await service.end()  # and all that it has forked
            life.gone_at = service.stopping_at or ended_at
            await asyncio.sleep(PAUSE_S)
            service = await self._start()

    async def _look(self, service: Service) -> None:
        with contextlib.suppress(TimeoutError):
            samples = await asyncio.wait_for(service.scrape(), 2)
            if samples:
                life = self.lives[-1]
                life.samples = samples
                for name in self._watched:
                    life.peaks[name] = max(life.peaks.get(name, 0.0), total(samples, name) or 0.0)

    def highest(self, name: str) -> float | None:
        """Return the highest last value of a metric over all lives; None where it does not exist."""
        found = [total(life.samples, name) for life in self.lives]
        return max((one for one in found if one is not None), default=None)

    def summed(self, name: str) -> float | None:
        """Return a counter over all lives; None where it does not exist."""
        found = [one for life in self.lives if (one := total(life.samples, name)) is not None]
        return sum(found) if found else None

    def peak(self, name: str) -> float:
        """Return the highest value of a watched metric."""
        return max((life.peaks.get(name, 0.0) for life in self.lives), default=0.0)
