"""Goodput beyond capacity: fivestage, a hand-written aiokafka consumer and FastStream side by side.

Each has 16 slots for work of 20 ms, so 800 queries a second is the capacity. An answer is useful
for 250 ms from its query's timestamp; goodput counts answers in time. ``--restart`` measures how soon
answers are in time again with a backlog of a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from dataclasses import asdict, dataclass

from .answers import Answer, asked_ms, first_answers, read_all
from .children import run_verb
from .contestants import CONTESTANTS, TTL_MS, until_it_answers
from .load import Load, Offered, Segment, offer
from .place import Place, place
from .plot import Line, Panel, draw
from .recovery import restart
from .report import OUT, percentile, save, table
from .system import cpu_seconds

SLOTS = 16
WORK_MS = 20
CAPACITY = SLOTS * 1000 / WORK_MS
MIN_OUTAGE_S = 35.0
"""The embedded broker keeps a departed member until its session (30 s) is over, and knows one only."""
AFTER_S = 1.0
"""Answers that come later than this after the last query do not count anyway."""


@dataclass(frozen=True)
class Figures:
    """One contestant under one load, without the warm-up."""

    load: float
    contestant: str
    offered_per_s: float
    in_time_per_s: float
    of_capacity: float
    age_p50_ms: float | None
    age_p99_ms: float | None
    cpu: float
    """Share of a core."""
    generator_late_p99_ms: float
    generator_late_max_ms: float
    statuses: dict[str, int]


async def main() -> None:
    """Run all contestants under all loads; print a table and write docs/bench/overload.*."""
    given = _arguments()
    if given.restart:
        loads = [float(load) for load in given.restart_loads.split(",")]
        await restart(loads, capacity=CAPACITY, slots=SLOTS, outage_s=given.outage, kafka=given.kafka)
        return
    found = []
    for load in [float(load) for load in given.loads.split(",")]:
        for name in given.contestants.split(","):
            rounds = [
                await measure(name, load, given.seconds, given.warmup, given.kafka)
                for _ in range(given.rounds)
            ]
            found.append(_median(rounds))
            print(_row(found[-1]), flush=True)
    publish(found, vars(given))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-overload", description=__doc__)
    parser.add_argument("--loads", default="0.7,1.5,3,10", help="multiples of the capacity")
    parser.add_argument("--contestants", default=",".join(CONTESTANTS))
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a run")
    parser.add_argument("--warmup", type=float, default=2.0, help="seconds of it that do not count")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each, of which the median is taken")
    parser.add_argument("--restart", action="store_true", help="measure the recovery after a restart instead")
    parser.add_argument("--restart-loads", default="0.7,1.0", help="loads of --restart")
    parser.add_argument("--outage", type=float, default=60.0, help="seconds of backlog for --restart")
    parser.add_argument(
        "--kafka", help="host:port of a real broker; otherwise a fresh embedded one each time"
    )
    given = parser.parse_args()
    if given.restart and given.kafka is None and given.outage < MIN_OUTAGE_S:
        parser.error(f"the embedded broker allows no earlier rejoin: --outage {MIN_OUTAGE_S:.0f}, or --kafka")
    return given


async def measure(name: str, load: float, seconds: float, warmup: float, kafka: str | None) -> Figures:
    """One run on a broker of its own."""
    async with place(kafka) as here, CONTESTANTS[name](here, SLOTS) as child:
        await until_it_answers(here, child)
        rate = load * CAPACITY
        queries = Load(
            here.bootstrap, here.topics.queries, rate, [Segment(int(rate * seconds), [str(WORK_MS)])]
        )
        cpu = cpu_seconds(child.pid)
        offered = await offer(queries)
        cpu = (cpu_seconds(child.pid) - cpu) / seconds
        await asyncio.sleep(AFTER_S)
        return await asyncio.to_thread(judge, here, name, load, offered, warmup, cpu)


def judge(here: Place, name: str, load: float, offered: Offered, warmup: float, cpu: float) -> Figures:
    """Compare the queries' timestamps with the answers'."""
    begin_ms = offered.first_ms + warmup * 1000
    asked = {
        query: at for query, at in asked_ms(here.bootstrap, here.topics.queries).items() if at >= begin_ms
    }
    answers = first_answers(map(Answer.of, read_all(here.bootstrap, here.topics.results)))
    counted = {query: answers[query] for query in asked if query in answers}
    ages = [float(answer.created_ms - asked[query]) for query, answer in counted.items() if answer.good]
    in_time = [age for age in ages if age <= TTL_MS]
    seconds = offered.seconds - warmup
    statuses: dict[str, int] = {"none": len(asked) - len(counted)}
    for answer in counted.values():
        statuses[answer.status] = statuses.get(answer.status, 0) + 1
    return Figures(
        load=load,
        contestant=name,
        offered_per_s=len(asked) / seconds,
        in_time_per_s=len(in_time) / seconds,
        of_capacity=len(in_time) / seconds / CAPACITY * 100,
        age_p50_ms=percentile(in_time, 0.5),
        age_p99_ms=percentile(in_time, 0.99),
        cpu=cpu,
        generator_late_p99_ms=offered.late_p99_ms,
        generator_late_max_ms=offered.late_max_ms,
        statuses=statuses,
    )


def _median(rounds: list[Figures]) -> Figures:
    """The run with the median goodput (the lower one of two)."""
    middle = statistics.median_low([one.in_time_per_s for one in rounds])
    return next(one for one in rounds if one.in_time_per_s == middle)


def _row(figures: Figures) -> str:
    ages = " ".join("-" if age is None else f"{age:.0f}" for age in (figures.age_p50_ms, figures.age_p99_ms))
    return (
        f"load {figures.load:g} {figures.contestant}: {figures.in_time_per_s:.0f}/s in time of "
        f"{figures.offered_per_s:.0f}/s offered, ages {ages} ms, {figures.statuses}"
    )


def publish(found: list[Figures], options: dict[str, object]) -> None:
    """Print the table and write the figures and the plot."""
    titles = [
        "load",
        "contestant",
        "offered/s",
        "in time/s",
        "% of capacity",
        "age p50 ms",
        "p99 ms",
        "cores",
    ]
    rows = [
        (
            f"{one.load:g}",
            one.contestant,
            round(one.offered_per_s),
            round(one.in_time_per_s),
            round(one.of_capacity),
            one.age_p50_ms,
            one.age_p99_ms,
            f"{one.cpu:.2f}",
        )
        for one in found
    ]
    print(table(titles, rows))
    save("overload", [asdict(one) for one in found], options)
    _draw(found)


def _draw(found: list[Figures]) -> None:
    lines = []
    for name in dict.fromkeys(one.contestant for one in found):
        mine = [one for one in found if one.contestant == name]
        lines.append(Line(name, [one.load for one in mine], [one.in_time_per_s for one in mine], "o-"))
    loads = sorted({one.load for one in found})
    bend = sorted({*loads, min(1.0, loads[-1])})
    lines.append(Line("possible", bend, [min(load, 1.0) * CAPACITY for load in bend], ":"))
    draw(
        OUT / "overload.svg",
        [Panel(f"answers within {TTL_MS} ms, per second", lines)],
        x_label=f"offered load (1 = {CAPACITY:.0f} queries/s)",
        title="Goodput under overload",
        xscale="log",
        xticks=loads,
        xticklabels=[f"{load:g}" for load in loads],
    )


if __name__ == "__main__":
    run_verb(main)
