"""One measurement: the cost of a backlog to the services that work it off."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .children import Service, total
from .scale_place import fill, place_for

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .children import Samples
    from .scale_axes import Point

TICKS = os.sysconf("SC_CLK_TCK")
LOOK_S = 0.5
WARM_S = 1.0
"""For the limits to be learned, and for one-time work."""
START_S = 30.0
ENDED = "lukhas_matriz_async_pipeline_total"
SUCCESS = 'status="success"'


@dataclass(frozen=True)
class Look:
    """A sample of the services."""

    at_s: float
    cpu_s: float
    ended: float
    succeeded: float
    rss_mb: float


@dataclass(frozen=True)
class Figures:
    """The differences between two samples."""

    cpu_us: float
    """CPU microseconds a query, of all processes of the services."""
    per_second: float
    """Queries answered successfully, not only ended."""
    success: float
    """Their share."""
    rss_mb: float
    """Resident, of all processes, at the end."""
    queries: int


async def measure(point: Point, kafka: str | None, seconds: float) -> Figures:
    """Fill a place, start the services, and look at them for so long, or until they have nothing to do."""
    async with place_for(point, kafka) as place, contextlib.AsyncExitStack() as stack:
        await asyncio.to_thread(fill, place, point)
        given = {**place.settings, "tracing.sample_ratio": 0, **point.settings}
        services = [Service(point.app, given) for _ in range(point.services)]
        for service in services:
            await stack.enter_async_context(service)
        for service in services:
            if not await service.until_ready():
                raise SystemExit(f"{point.axis} {point.x}: {list(service.log)[-1:]}")
        first = await _warm(services, point)
        last = first
        while last.at_s - first.at_s < seconds:
            await asyncio.sleep(LOOK_S)
            looked = await _look(services)
            if looked.ended >= point.backlog and last is not first:
                break  # they have waited for more since
            last = looked
    return _between(first, last)


async def _warm(services: list[Service], point: Point) -> Look:
    """Wait until all services have worked for a while, but for no more than a tenth of the backlog."""
    limit = time.monotonic() + START_S
    first = await _look(services)
    while not all([await _ended(service) for service in services]):
        if time.monotonic() > limit:
            raise SystemExit(f"{point.axis} {point.x}: not all of the services get something to do")
        await asyncio.sleep(LOOK_S / 10)
    enough, until = point.backlog / 10, time.monotonic() + WARM_S
    while first.ended < enough and time.monotonic() < until:
        await asyncio.sleep(LOOK_S / 10)
        first = await _look(services)
    return first


async def _ended(service: Service) -> float:
    return total(await service.scrape() or {}, ENDED) or 0.0


async def _look(services: list[Service]) -> Look:
    scraped = [samples for service in services if (samples := await service.scrape()) is not None]
    at_s, processes = time.monotonic(), [_Process.of(service.pid) for service in services]
    return Look(
        at_s,
        sum(one.cpu_s for one in processes),
        sum(total(samples, ENDED) or 0.0 for samples in scraped),
        sum(_succeeded(scraped)),
        sum(one.rss_mb for one in processes),
    )


def _succeeded(scraped: list[Samples]) -> Iterable[float]:
    for samples in scraped:
        yield sum(
            value for name, value in samples.items() if name.startswith(ENDED + "{") and SUCCESS in name
        )


@dataclass(frozen=True)
class _Process:
    """A process and its descendants, which share its session."""

    cpu_s: float
    rss_mb: float

    @classmethod
    def of(cls, session: int) -> _Process:
        cpu_ticks, pages = 0, 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has just ended
                fields = path.read_text().rpartition(")")[2].split()
                if int(fields[3]) == session:
                    cpu_ticks += sum(map(int, fields[11:15]))  # what has ended counts for its parent
                    pages += int(fields[21])
        return cls(cpu_ticks / TICKS, pages * os.sysconf("SC_PAGE_SIZE") / 2**20)


def _between(first: Look, last: Look) -> Figures:
    ended, took_s = last.ended - first.ended, last.at_s - first.at_s
    succeeded = last.succeeded - first.succeeded
    if ended <= 0:
        raise SystemExit("nothing was answered in the time of the measurement: the backlog is too small")
    cpu_us = (last.cpu_s - first.cpu_s) / ended * 1e6
    return Figures(cpu_us, succeeded / took_s, succeeded / ended, last.rss_mb, int(ended))
