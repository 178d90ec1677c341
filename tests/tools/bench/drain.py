"""One run: a contestant works off a backlog."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

from . import backlog
from .system import session_cpu_seconds, session_peak_mb

if TYPE_CHECKING:
    from .children import Child
    from .entries import Contestant
    from .place import Place

SAMPLE_S = 0.05
SETTLE_S = 20.0
"""For the stage results and the positions: both may come after the last result."""


class Sample(NamedTuple):
    """One sample."""

    at: float
    answered: int
    cpu_s: float


class Drained(NamedTuple):
    """The measurements of one run, from the first answer to the last."""

    queries: int
    cpu_us: float
    """Per query, of the process and its children."""
    per_second: float
    cores: float
    peak_mb: float

    @classmethod
    def between(cls, first: Sample, last: Sample, peak_mb: float) -> Drained:
        """Compute from two samples."""
        queries, seconds, cpu_s = last.answered - first.answered, last.at - first.at, last.cpu_s - first.cpu_s
        return cls(queries, cpu_s / queries * 1e6, queries / seconds, cpu_s / seconds, peak_mb)


async def drain(place: Place, contestant: Contestant, count: int, limit_s: float) -> Drained:
    """Let it work off *count* queries, and measure.

    Raises:
        SystemExit: not all were answered in time, or some more than once, or events or positions are missing;
            or there were too few to measure anything.
    """
    first, last, peak_mb = await work_off(place, contestant, count, limit_s)
    if last.answered == first.answered:
        raise SystemExit(f"{count} queries are too few: all were answered at once")
    return Drained.between(first, last, peak_mb)


async def work_off(
    place: Place, contestant: Contestant, count: int, limit_s: float
) -> tuple[Sample, Sample, float]:
    """Let it work off *count* queries; return samples at the first and last answers, and its memory.

    Raises:
        SystemExit: not all were answered in time, or some more than once, or events or positions are missing.
    """
    await asyncio.to_thread(backlog.write, place, count)
    ends = await asyncio.to_thread(backlog.Ends, place)
    try:
        async with contestant.start(place) as child:
            first, last = await _answered(ends, child, count, limit_s)
            peak_mb = session_peak_mb(child.pid)
            await _complete(ends, child, count)
    finally:
        ends.close()
    return first, last, peak_mb


async def _answered(ends: backlog.Ends, child: Child, count: int, limit_s: float) -> tuple[Sample, Sample]:
    ended = asyncio.ensure_future(child.exited())
    limit = time.monotonic() + limit_s
    first: Sample | None = None
    try:
        while True:
            answered = await asyncio.to_thread(ends.results)
            now = Sample(time.monotonic(), answered, session_cpu_seconds(child.pid))
            if answered and first is None:
                first = now
            if first is not None and answered >= count:
                return first, now
            if ended.done() or now.at > limit:
                raise SystemExit(f"only {answered} of {count} queries were answered: {list(child.log)[-3:]}")
            await asyncio.sleep(SAMPLE_S)
    finally:
        ended.cancel()


async def _complete(ends: backlog.Ends, child: Child, count: int) -> None:
    """Check that everything exists once and is committed."""
    wanted, limit = (count, 5 * count, count), time.monotonic() + SETTLE_S
    while True:
        found = await asyncio.to_thread(lambda: (ends.results(), ends.stage_results(), ends.committed()))
        if found == wanted:
            return
        if time.monotonic() > limit:
            raise SystemExit(
                f"results, stage results, positions: {found}, not {wanted}; {list(child.log)[-3:]}"
            )
        await asyncio.sleep(SAMPLE_S)
