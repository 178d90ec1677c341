"""One run: a contestant works off a backlog."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from . import backlog
from .system import session_cpu_seconds, session_peak_mb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .children import Child
    from .entries import Contestant
    from .place import Place

SAMPLE_S = 0.05
SETTLE_S = 20.0
"""For the stage results and the positions: both may come after the last result."""
STEADY = (0.1, 0.9)
"""Shares of the answers between which is measured: at both ends as many queries are under way."""
AS_EXPECTED, MIN_AS_EXPECTED = 0.95, 0.5
"""Share of the last results that end as expected: below the first they are printed, below the second the run
does not count. On a busy machine some stages time out.
"""


class NotMeasured(SystemExit):
    """The contestant was up to something else, so its cost is not that of the work."""


class Sample(NamedTuple):
    """One sample."""

    at: float
    answered: int
    cpu_s: float


class Drained(NamedTuple):
    """The measurements of one run, while it was under way."""

    queries: int
    cpu_us: float
    """Per query, of the process and its children."""
    per_second: float
    cores: float
    peak_mb: float

    @classmethod
    def of(cls, samples: Sequence[Sample], count: int, peak_mb: float) -> Drained:
        """Compute from the samples of a run with *count* queries.

        Raises:
            SystemExit: all were answered between two samples.
        """
        low, high = (share * count for share in STEADY)
        steady = [one for one in samples if low <= one.answered <= high]
        if not steady or steady[-1].answered == steady[0].answered:
            raise SystemExit(f"{count} queries are too few to measure their cost: use more (--queries)")
        return cls.between(steady[0], steady[-1], peak_mb)

    @classmethod
    def between(cls, first: Sample, last: Sample, peak_mb: float) -> Drained:
        """Compute from two samples."""
        queries, seconds, cpu_s = last.answered - first.answered, last.at - first.at, last.cpu_s - first.cpu_s
        return cls(queries, cpu_s / queries * 1e6, queries / seconds, cpu_s / seconds, peak_mb)


async def drain(place: Place, contestant: Contestant, count: int, limit_s: float) -> Drained:
    """Let it work off *count* queries, and measure.

    Raises:
        SystemExit, NotMeasured: as `work_off`; SystemExit also where there were too few to measure anything.
    """
    samples, peak_mb = await work_off(place, contestant, count, limit_s)
    return Drained.of(samples, count, peak_mb)


async def work_off(
    place: Place, contestant: Contestant, count: int, limit_s: float
) -> tuple[list[Sample], float]:
    """Let it work off *count* queries; return samples from the first answer to the last, and its memory.

    Raises:
        SystemExit: not all were answered in time, or some more than once, or events or positions are missing.
        NotMeasured: too few of the last queries ended as expected.
    """
    await asyncio.to_thread(backlog.write, place, count)
    ends = await asyncio.to_thread(backlog.Ends, place)
    try:
        async with contestant.start(place) as child:
            samples = await _answered(ends, child, count, limit_s)
            peak_mb = session_peak_mb(child.pid)
            await complete(ends, child, contestant, count)
    finally:
        ends.close()
    return samples, peak_mb


async def _answered(ends: backlog.Ends, child: Child, count: int, limit_s: float) -> list[Sample]:
    ended = asyncio.ensure_future(child.exited())
    limit = time.monotonic() + limit_s
    samples: list[Sample] = []
    try:
        while True:
            now = await sample(ends, child)
            if now.answered:
                samples.append(now)
            if now.answered >= count:
                return samples
            if ended.done() or now.at > limit:
                raise SystemExit(
                    f"only {now.answered} of {count} queries were answered: {list(child.log)[-3:]}"
                )
            await asyncio.sleep(SAMPLE_S)
    finally:
        ended.cancel()


async def sample(ends: backlog.Ends, child: Child) -> Sample:
    """Look at the answers and the CPU so far."""
    answered = await asyncio.to_thread(ends.results)
    return Sample(time.monotonic(), answered, session_cpu_seconds(child.pid))


async def complete(ends: backlog.Ends, child: Child, contestant: Contestant, count: int) -> None:
    """Check that everything exists once, is committed, and that the last results are as expected.

    Raises:
        SystemExit: something is missing, or is there twice.
        NotMeasured: too few results are as expected.
    """
    limit = time.monotonic() + SETTLE_S
    most = contestant.stage_results * count
    least = most if contestant.same_work else MIN_AS_EXPECTED * most
    while True:
        found = await asyncio.to_thread(lambda: (ends.results(), ends.stage_results(), ends.committed()))
        results, stage_results, committed = found
        if results == committed == count and least <= stage_results <= most:
            break
        if time.monotonic() > limit:
            wanted = (count, most, count)
            raise SystemExit(
                f"results, stage results, positions: {found}, not {wanted}; {list(child.log)[-3:]}"
            )
        await asyncio.sleep(SAMPLE_S)
    endings = Counter(await asyncio.to_thread(ends.last_endings))
    share = endings[contestant.ends_as] / max(1, endings.total())
    if share < AS_EXPECTED:
        print(f"a busy machine? The last queries ended as {dict(endings)}", flush=True)
    if share < MIN_AS_EXPECTED:
        raise NotMeasured(f"only {share:.0%} of the last queries ended as {contestant.ends_as}")
