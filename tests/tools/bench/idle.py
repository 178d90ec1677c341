"""The cost of an idle service."""

from __future__ import annotations

import asyncio
import time

from .children import Service
from .memory import ready
from .parts import PARTITIONS, Bar, Options, Part
from .place import places
from .report import table
from .system import session_cpu_seconds

SETTLE_S = 3.0
SECONDS = 20.0
MAX_SHARE = 1.0
DEFAULT_WAIT_MS = 100


async def measure(options: Options) -> Part:
    """Measure the CPU of an idle service, with threads and with processes."""
    found: dict[str, float] = {}
    for kind in ("thread", "process"):
        async with places(1, options.kafka, PARTITIONS) as (place,):
            settings = {"executor.kind": kind, "kafka.fetch_max_wait_ms": DEFAULT_WAIT_MS}
            async with Service("trivial_app:app", {**place.settings, **settings}) as service:
                await ready(service)
                await asyncio.sleep(SETTLE_S)
                started, cpu = time.monotonic(), session_cpu_seconds(service.pid)
                await asyncio.sleep(SECONDS)
                spent = session_cpu_seconds(service.pid) - cpu
                found[kind] = spent / (time.monotonic() - started) * 100
    rows = [[kind, f"{share:.2f}"] for kind, share in found.items()]
    bar = Bar.at_most("CPU with nothing to do, of a core", found["thread"], MAX_SHARE, " %")
    return Part("Idle", found, table(["executor", "% of a core"], rows), [bar])
