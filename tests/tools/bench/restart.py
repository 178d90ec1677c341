"""The cost of deploys and crashes: two instances under a steady load, one restarted, killed, added or ended.

A query is late when its answer comes more than 250 ms after its timestamp, by the record's own; the longest
gap is the longest that any query waited for its first answer. ``make bench-restart`` writes
docs/bench/restart.*; exit code 1 when a bar is not kept.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

from .answers import Answer, asked_ms, first_answers, read_all
from .children import Service, run_verb
from .contestants import until_it_answers
from .load import Load, Segment, offer
from .parts import Bar
from .place import place
from .report import percentile, save, table, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from .load import Offered
    from .place import Place

LATE_MS = 250
LEAD_S = 3.0
"""The duration of load before the event."""
BETWEEN_S = 3.0
"""From one instance's being ready again to the restart of the next."""
PARTITIONS = 8
LINGER_MS = 0.5
ROLLING_SHARE, ROLLING_GAP_S, KILL_GAP_S = 0.2, 0.4, 7.0
TITLES = [
    "what happens",
    "queries",
    "late %",
    "late",
    "longest gap s",
    "age p99 ms",
    "unanswered",
    "repeated",
    "generator late max ms",
]

Instances = list[Service]


@dataclass(frozen=True)
class Cost:
    """The cost of one event."""

    name: str
    queries: int
    late: int
    """Answered more than LATE_MS after they were asked, or never."""
    longest_gap_s: float
    age_p99_ms: float
    unanswered: int
    repeated: int
    """Answers beyond the first of their query."""
    ready_s: list[float]
    """From the start of an instance until it was ready, for each that was started."""
    generator_late_p99_ms: float
    generator_late_max_ms: float
    """How late queries were written after they were asked, which is no instance's fault."""

    @property
    def late_share(self) -> float:
        """In per cent."""
        return 100 * self.late / self.queries


async def _ready(service: Service) -> None:
    if not await service.until_ready():
        raise SystemExit(f"an instance did not get ready; its log: {list(service.log)[-5:]}")


async def _rolling_restart(here: Place, running: Instances) -> None:
    """End each instance, and start it again when it has ended."""
    for number, old in enumerate([*running]):
        await old.end()
        running[number] = new = _service(here)
        await new.start()
        await _ready(new)
        await asyncio.sleep(BETWEEN_S)


async def _kill(_: Place, running: Instances) -> None:
    """Kill one instance."""
    await running[0].end(signal.SIGKILL)


async def _join(here: Place, running: Instances) -> None:
    """Start a third instance."""
    running.append(new := _service(here))
    await new.start()
    await _ready(new)


async def _leave(_: Place, running: Instances) -> None:
    """Stop one instance cleanly."""
    await running[0].end()


class Event(NamedTuple):
    """Something that happens to the instances."""

    act: Callable[[Place, Instances], Awaitable[None]]
    seconds: float
    """The duration of the load, as a multiple of ``--seconds``."""


EVENTS = {
    "rolling restart": Event(_rolling_restart, 2),
    "kill": Event(_kill, 1),
    "join": Event(_join, 1),
    "leave": Event(_leave, 1),
}


def _service(here: Place) -> Service:
    return Service("trivial_app:app", {**here.settings, "tracing.sample_ratio": 0})


@contextlib.asynccontextmanager
async def _two(here: Place) -> AsyncIterator[Instances]:
    running = [_service(here), _service(here)]
    try:
        for service in running:
            await service.start()
        for service in running:
            await _ready(service)
        await until_it_answers(here, running[0])
        yield running
    finally:
        for service in running:
            await service.end()


async def _measure(name: str, given: argparse.Namespace) -> Cost:
    """Measure one event under load, with new topics and a new group."""
    event = EVENTS[name]
    async with place(given.kafka, PARTITIONS) as here, _two(here) as running:
        before = [*running]
        size = int(given.rate * given.seconds * event.seconds)
        load = Load(here.bootstrap, here.topics.queries, given.rate, [Segment(size, ["2+2"])], LINGER_MS)
        offering = asyncio.create_task(offer(load))
        await asyncio.sleep(LEAD_S)
        await event.act(here, running)
        offered = await offering
        await asyncio.sleep(given.settle)
        ready = [one.ready_at - one.started_at for one in running if one not in before]
        return await asyncio.to_thread(_judge, here, name, ready, offered)


def _judge(here: Place, name: str, ready_s: list[float], offered: Offered) -> Cost:
    asked = asked_ms(here.bootstrap, here.topics.queries)
    answers = [Answer.of(message) for message in read_all(here.bootstrap, here.topics.results)]
    answers = [answer for answer in answers if answer.query_id in asked]
    first = first_answers(answers)
    ages = [first[query].created_ms - at for query, at in asked.items() if query in first]
    unanswered = len(asked) - len(ages)
    return Cost(
        name=name,
        queries=len(asked),
        late=sum(age > LATE_MS for age in ages) + unanswered,
        longest_gap_s=max(ages) / 1000,
        age_p99_ms=percentile(ages, 0.99) or 0.0,
        unanswered=unanswered,
        repeated=len(answers) - len(first),
        ready_s=ready_s,
        generator_late_p99_ms=offered.late_p99_ms,
        generator_late_max_ms=offered.late_max_ms,
    )


def _bars(costs: dict[str, Cost], *, embedded: bool) -> list[Bar]:
    """Return the bars for a real Kafka; the groups of the embedded one are too slow for them."""
    rolling, kill = (None if embedded else costs.get(name) for name in ("rolling restart", "kill"))
    share = None if rolling is None else rolling.late_share
    gap_s, kill_gap_s = (None if cost is None else cost.longest_gap_s for cost in (rolling, kill))
    return [
        Bar.at_most("rolling restart: late", share, ROLLING_SHARE, " %"),
        Bar.at_most("rolling restart: longest gap", gap_s, ROLLING_GAP_S, " s"),
        Bar.at_most("kill: longest gap", kill_gap_s, KILL_GAP_S, " s"),
        Bar.at_most("without an answer", sum(one.unanswered for one in costs.values()), 0),
    ]


def _row(cost: Cost) -> list[object]:
    return [
        cost.name,
        cost.queries,
        f"{cost.late_share:.2f}",
        cost.late,
        f"{cost.longest_gap_s:.2f}",
        round(cost.age_p99_ms),
        cost.unanswered,
        cost.repeated,
        round(cost.generator_late_max_ms),
    ]


async def main() -> int:
    """Measure each event, print a table and write docs/bench/restart.*; the exit code."""
    given = _arguments()
    costs: dict[str, Cost] = {}
    for name in given.events.split(","):
        costs[name] = await _measure(name, given)
        print(f"{name}: {costs[name]}", flush=True)
    bars = _bars(costs, embedded=given.kafka is None)
    kept = {None: "not measured", True: "yes", False: "NO"}
    verdict = table(["bar", "limit", "measured", "kept?"], [[*bar[:3], kept[bar.kept]] for bar in bars])
    found = table(TITLES, [_row(cost) for cost in costs.values()])
    where = "the embedded broker" if given.kafka is None else "a real Kafka"
    print(f"\n{found}\n\n{verdict}")
    save("restart", [asdict(cost) for cost in costs.values()], {**vars(given), "kafka": bool(given.kafka)})
    heading = f"# Restarts: two instances, {given.rate:g} queries a second, on {where}"
    write("restart.md", f"{heading}\n\n{found}\n\n{verdict}\n")
    return 1 if any(bar.kept is False for bar in bars) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-restart", description=__doc__)
    parser.add_argument("--events", default=",".join(EVENTS), help="which, separated by commas")
    parser.add_argument("--rate", type=float, default=150.0, help="queries a second")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="length of the load; of a rolling restart twice that"
    )
    parser.add_argument("--settle", type=float, default=2.0, help="seconds for answers after the load")
    parser.add_argument("--kafka", help="host:port of a real broker; otherwise an embedded one, without bars")
    given = parser.parse_args()
    if unknown := [name for name in given.events.split(",") if name not in EVENTS]:
        parser.error(f"no such event: {', '.join(unknown)}; there are {', '.join(EVENTS)}")
    return given


if __name__ == "__main__":
    run_verb(main)
