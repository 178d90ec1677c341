"""Resident memory with a backlog of a million queries, against memory at rest."""

from __future__ import annotations

import asyncio
import time

from . import backlog
from .children import Service
from .parts import Bar, Options, Part
from .place import Place, places
from .report import table
from .system import peak_mb, resident_mb

QUERIES = 1_000_000
PARTITIONS = 32
"""So many that the embedded broker, which keeps 5 MiB per partition, has room for them."""
REST_S = 3.0
LOOK_S = 0.5
MIN_S = 10.0
MAX_GROWTH_MB = 64


async def measure(options: Options) -> Part:
    """At rest, then with the backlog before it, for some seconds of work."""
    seconds = max(MIN_S, options.seconds)
    async with places(2, options.kafka, PARTITIONS) as (empty, full):
        rest_mb = await at_rest(empty)
        await asyncio.to_thread(backlog.write, full, QUERIES, traced=False)
        highest_mb, answered = await at_work(full, seconds)
    growth = highest_mb - rest_mb
    rows = [["at rest", rest_mb], [f"highest in {seconds:.0f} s with {QUERIES} queries waiting", highest_mb]]
    figures = {"rest_mb": rest_mb, "highest_mb": highest_mb, "answered": answered}
    bar = Bar.at_most("memory with a backlog, above that at rest", growth, MAX_GROWTH_MB, " MB")
    return Part("Memory", figures, table(["", "resident MB"], rows), [bar])


async def at_rest(place: Place) -> float:
    """Return the memory of an idle service."""
    async with Service("trivial_app:app", place.settings) as service:
        await ready(service)
        await asyncio.sleep(REST_S)
        return resident_mb(service.pid)


async def at_work(place: Place, seconds: float) -> tuple[float, int]:
    """Return the highest memory, and the number of queries answered until then."""
    ends = await asyncio.to_thread(backlog.Ends, place)
    async with Service("trivial_app:app", place.settings) as service:
        await ready(service)
        until = time.monotonic() + seconds
        while time.monotonic() < until and await asyncio.to_thread(ends.results) < QUERIES:
            await asyncio.sleep(LOOK_S)
        highest_mb, answered = peak_mb(service.pid), await asyncio.to_thread(ends.results)
    ends.close()
    if answered == 0:
        raise SystemExit("the service answered nothing of the backlog")
    return highest_mb, answered


async def ready(service: Service) -> None:
    """Wait until the service is ready.

    Raises:
        SystemExit: it ended instead.
    """
    if not await service.until_ready():
        raise SystemExit(f"the service did not get ready: {list(service.log)[-3:]}")
