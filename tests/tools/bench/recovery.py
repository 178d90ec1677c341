"""The recovery after a restart with a backlog: ``overload --restart``.

The service is stopped under load, the load goes on, the service is started again. Goodput is counted in bins
of 250 ms, by the time of the answers.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from .answers import Answer, asked_ms, first_answers, read_all
from .contestants import TTL_MS, fivestage, until_it_answers
from .load import Load, Segment, offer
from .place import place
from .plot import Line, Panel, draw
from .report import OUT, save, table

if TYPE_CHECKING:
    from .place import Place

BIN_MS = 250
ENOUGH = 0.9
STEADY_BINS = 4
"""The bins after the first good one must be as good on average: one lucky bin is no recovery."""
BEFORE_S, AFTER_S = 6.0, 15.0
PARTITIONS = 32
"""A minute of expiries is some 50 MB of results."""
BAR_S = 2.0


@dataclass(frozen=True)
class RecoveryTime:
    """One restart."""

    load: float
    rate: float
    before_per_s: float
    """Goodput before the stop."""
    start_to_ready_s: float
    ready_to_good_s: float | None
    start_to_good_s: float | None
    unanswered: int
    """Queries without a terminal event at the end."""
    bins: list[tuple[float, float]]
    """Seconds from ready, in time per second."""

    @property
    def passed(self) -> bool:
        """Return whether it meets the bar."""
        return self.ready_to_good_s is not None and self.ready_to_good_s <= BAR_S


async def restart(
    loads: list[float], *, capacity: float, slots: int, outage_s: float, kafka: str | None
) -> None:
    """Measure each load; print a table and write docs/bench/recovery.*."""
    found = [await _measure(load, load * capacity, slots, outage_s, kafka) for load in loads]
    save("recovery", [asdict(one) for one in found], {"outage_s": outage_s, "slots": slots})
    _publish(found, outage_s)


def _publish(found: list[RecoveryTime], outage_s: float) -> None:
    titles = ["load", "offered/s", "before/s", "start to ready s", "ready to good s", "start to good s"]
    rows = [
        (
            f"{one.load:g}",
            round(one.rate),
            round(one.before_per_s),
            f"{one.start_to_ready_s:.2f}",
            _seconds(one.ready_to_good_s),
            _seconds(one.start_to_good_s),
            one.unanswered,
            _mark(one),
        )
        for one in found
    ]
    print(table([*titles, "unanswered", f"<= {BAR_S:.0f} s"], rows))
    lines = [
        Line(f"load {one.load:g}", [at for at, _ in one.bins], [per_s for _, per_s in one.bins])
        for one in found
    ]
    draw(
        OUT / "recovery.svg",
        [Panel(f"answers within {TTL_MS} ms, per second", lines)],
        x_label="seconds from ready",
        title=f"Restart after {outage_s:.0f} s of backlog",
    )


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def _mark(one: RecoveryTime) -> str:
    return "yes" if one.passed else "NO"


async def _measure(load: float, rate: float, slots: int, outage_s: float, kafka: str | None) -> RecoveryTime:
    async with place(kafka, PARTITIONS) as here:
        queries = Segment(int(rate * (BEFORE_S + outage_s + AFTER_S)), ["20"])
        async with fivestage(here, slots) as first:
            await until_it_answers(here, first)
            offering = asyncio.create_task(offer(Load(here.bootstrap, here.topics.queries, rate, [queries])))
            await asyncio.sleep(BEFORE_S)
            await first.end()
        stopped_at = asyncio.get_running_loop().time()
        await asyncio.sleep(outage_s - (asyncio.get_running_loop().time() - stopped_at))
        async with fivestage(here, slots) as second:
            if not await second.until_ready():
                raise SystemExit(f"the service did not get ready; its log: {list(second.log)[-5:]}")
            offered = await offering
            await asyncio.sleep(1)
            times = (offered.first_ms, second.started_at * 1000, second.ready_at * 1000)
            return await asyncio.to_thread(_judge, here, load, rate, times)


def _judge(here: Place, load: float, rate: float, times: tuple[float, float, float]) -> RecoveryTime:
    first_ms, started_ms, ready_ms = times
    asked = asked_ms(here.bootstrap, here.topics.queries)
    answers = first_answers(map(Answer.of, read_all(here.bootstrap, here.topics.results)))
    in_time = [
        answer.created_ms
        for name, answer in answers.items()
        if name in asked and answer.good and answer.created_ms - asked[name] <= TTL_MS
    ]
    bins = _bins(in_time, ready_ms, started_ms, max(asked.values()))
    good_s = _recovered(bins, rate)
    measured = [at for at in in_time if first_ms + 2000 <= at < first_ms + (BEFORE_S - 1) * 1000]
    ready_s = (ready_ms - started_ms) / 1000
    return RecoveryTime(
        load=load,
        rate=rate,
        before_per_s=len(measured) / (BEFORE_S - 3),
        start_to_ready_s=ready_s,
        ready_to_good_s=good_s,
        start_to_good_s=None if good_s is None else good_s + ready_s,
        unanswered=len(asked.keys() - answers.keys()),
        bins=bins,
    )


def _bins(times: list[int], ready_ms: float, from_ms: float, until_ms: float) -> list[tuple[float, float]]:
    """Return answers in time per second by seconds from ready."""
    first, last = int((from_ms - ready_ms) // BIN_MS), int((until_ms - ready_ms) // BIN_MS)
    counts = dict.fromkeys(range(first, last), 0)
    for at in times:
        number = int((at - ready_ms) // BIN_MS)
        if number in counts:
            counts[number] += 1
    return [(number * BIN_MS / 1000, count * 1000 / BIN_MS) for number, count in counts.items()]


def _recovered(bins: list[tuple[float, float]], rate: float) -> float | None:
    """Return the end of the first good bin from ready on, with good ones behind it."""
    for number, (at, per_s) in enumerate(bins):
        following = [one for _, one in bins[number : number + STEADY_BINS + 1]]
        steady = len(following) > STEADY_BINS and sum(following) / len(following) >= ENOUGH * rate
        if at >= -BIN_MS / 1000 and per_s >= ENOUGH * rate and steady:
            return max(at, 0.0) + BIN_MS / 1000
    return None
