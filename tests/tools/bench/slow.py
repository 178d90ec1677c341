"""A node that becomes ten times slower and recovers: what is learned, and its cost.

Its latency goes from 20 to 200 and back to 20 ms under a steady load of 60 % of what the service can do while
it is slow, so that whatever is not answered in time is lost to limits and not to load. Scraped all along: the
limit of the processing stage, and of what may be in flight.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from .answers import Answer, asked_ms, collect, first_answers
from .children import Samples, Service, run_verb, total
from .contestants import until_it_answers
from .load import Load, Offered, Segment, offer
from .place import place
from .plot import Line, Panel, draw
from .report import OUT, percentile, save, table

if TYPE_CHECKING:
    from .place import Place

SCRAPE_S = 0.5
BIN_S = 0.5
BUDGET_MS = 250
TTL: dict[str, object] = {"admission.query_ttl_ms": BUDGET_MS}
"""Late queries are dropped, so that no phase suffers from the backlog of the one before."""
SHARE = 0.6
AFTER_S = 10.0
PROBES, PROBE_RATE, PROBE_LIMIT_S = 6000, 20_000.0, 60.0
CONCURRENCY = "fivestage_concurrency_limit"
IN_FLIGHT = "fivestage_in_flight"
STAGE_LIMIT = "fivestage_stage_limit_seconds"


@dataclass(frozen=True)
class Bin:
    """Half a second of the load, by the time of the queries."""

    at_s: float
    node_ms: int
    offered_per_s: float
    in_time_per_s: float
    p95_ms: float | None
    statuses: dict[str, int]


@dataclass(frozen=True)
class Scrape:
    """A scrape of /metrics at one time."""

    at_s: float
    stage_limit_ms: float | None
    concurrency_limit: float | None
    in_flight: float | None


async def main() -> None:
    """Measure; print the figures of each phase and write docs/bench/slow.*."""
    parser = argparse.ArgumentParser(prog="make bench-slow", description=__doc__)
    parser.add_argument("--rate", type=float, help="queries a second; otherwise 60 %% of what is measured")
    parser.add_argument("--slots", type=int, default=256, help="admission.max_in_flight")
    parser.add_argument("--phases", default="10:20,15:200,45:20", help="SECONDS:MILLISECONDS,...")
    parser.add_argument("--kafka", help="host:port of a real broker; otherwise an embedded one")
    given = parser.parse_args()
    pairs = [phase.split(":") for phase in given.phases.split(",")]
    phases = [(float(seconds), int(ms)) for seconds, ms in pairs]
    slowest_s = max(ms for _, ms in phases) / 1000
    rate = given.rate or SHARE * min(await capacity(given.slots, given.kafka), given.slots / slowest_s)
    print(f"{rate:.0f} queries a second", flush=True)
    bins, scrapes = await measure(phases, rate, given.slots, given.kafka)
    publish(bins, scrapes, {**vars(given), "rate": rate})


async def measure(
    phases: list[tuple[float, int]], rate: float, slots: int, kafka: str | None
) -> tuple[list[Bin], list[Scrape]]:
    """Offer the phases, scrape, and read along."""
    async with place(kafka) as here, _service(here, slots, **TTL) as service:
        await until_it_answers(here, service)
        load = Load(
            here.bootstrap,
            here.topics.queries,
            rate,
            [Segment(int(seconds * rate), [str(ms)]) for seconds, ms in phases],
        )
        limit_s = load.size / rate + AFTER_S
        reading = asyncio.create_task(collect(here.bootstrap, here.topics.results, load.size, limit_s))
        offering = asyncio.create_task(offer(load))
        samples = await _scrape_until(offering, service)
        offered, answers = await offering, await reading
        asked = await asyncio.to_thread(asked_ms, here.bootstrap, here.topics.queries)
    scrapes = [_scrape(at - offered.first_ms / 1000, one) for at, one in samples]
    return _bins(asked, first_answers(answers), phases, offered), scrapes


def _service(here: Place, slots: int, **given: object) -> Service:
    settings = {**here.settings, "admission.max_in_flight": slots, "tracing.sample_ratio": 0, **given}
    return Service("overload_app:app", settings)


async def capacity(slots: int, kafka: str | None) -> float:
    """Return the queries a second that the service answers from a backlog, with the node at 20 ms."""
    async with place(kafka) as here, _service(here, slots) as service:
        await until_it_answers(here, service)
        reading = asyncio.create_task(collect(here.bootstrap, here.topics.results, PROBES, PROBE_LIMIT_S))
        await offer(Load(here.bootstrap, here.topics.queries, PROBE_RATE, [Segment(PROBES, ["20"])]))
        times = sorted(answer.created_ms for answer in await reading)
    tenth = len(times) // 10
    return (len(times) - 2 * tenth) / (times[-tenth] - times[tenth]) * 1000


async def _scrape_until(offering: asyncio.Task[Offered], service: Service) -> list[tuple[float, Samples]]:
    found, due = [], time.monotonic()
    while not offering.done():
        samples = await service.scrape()
        if samples is not None:
            found.append((time.time(), samples))
        due += SCRAPE_S
        await asyncio.wait({offering}, timeout=max(0.0, due - time.monotonic()))
    return found


def _scrape(at_s: float, samples: Samples) -> Scrape:
    limits = {key: value for key, value in samples.items() if key.startswith(STAGE_LIMIT + "{")}
    limit = next((value for key, value in limits.items() if 'stage="processing"' in key), None)
    return Scrape(
        at_s=at_s,
        stage_limit_ms=None if limit is None else limit * 1000,
        concurrency_limit=total(samples, CONCURRENCY),
        in_flight=total(samples, IN_FLIGHT),
    )


def _bins(
    asked: dict[str, int], answers: dict[str, Answer], phases: list[tuple[float, int]], offered: Offered
) -> list[Bin]:
    by_bin: dict[int, list[str]] = defaultdict(list)
    for name, at in asked.items():
        by_bin[int((at - offered.first_ms) / 1000 / BIN_S)].append(name)
    ends = list(itertools.accumulate(seconds for seconds, _ in phases))
    return [
        _bin(
            number * BIN_S,
            phases[min(bisect_right(ends, number * BIN_S), len(ends) - 1)][1],
            names,
            asked,
            answers,
        )
        for number, names in sorted(by_bin.items())
    ]


def _bin(
    at_s: float, node_ms: int, names: list[str], asked: dict[str, int], answers: dict[str, Answer]
) -> Bin:
    found = [answers[name] for name in names if name in answers]
    ages = [float(one.created_ms - asked[one.query_id]) for one in found]
    in_time = sum(one.good and age <= BUDGET_MS for one, age in zip(found, ages, strict=True))
    statuses = Counter(one.status for one in found)
    statuses["none"] = len(names) - len(found)
    return Bin(at_s, node_ms, len(names) / BIN_S, in_time / BIN_S, percentile(ages, 0.95), dict(statuses))


def publish(bins: list[Bin], scrapes: list[Scrape], options: dict[str, object]) -> None:
    """Print a row for each phase, and write the series and the plot."""
    rows = []
    for _, group in itertools.groupby(bins, key=lambda one: one.node_ms):
        phase = list(group)
        statuses: Counter[str] = sum((Counter(one.statuses) for one in phase), Counter())
        goodput = statistics.fmean(one.in_time_per_s for one in phase)
        slowest = [one.p95_ms for one in phase if one.p95_ms is not None]
        ended = ", ".join(f"{name} {count}" for name, count in statuses.items())
        rows.append(
            (f"{phase[0].at_s:g}", phase[0].node_ms, round(goodput), statistics.median(slowest), ended)
        )
    print(table(["from s", "node ms", "in time/s", "age p95 ms", "ended as"], rows))
    save(
        "slow", {"bins": [asdict(one) for one in bins], "scrapes": [asdict(one) for one in scrapes]}, options
    )
    _draw(bins, scrapes)


def _draw(bins: list[Bin], scrapes: list[Scrape]) -> None:
    at, scraped_at = [one.at_s for one in bins], [one.at_s for one in scrapes]
    panels = [
        Panel(
            "ms, or per second",
            [
                Line("the node takes, ms", at, [one.node_ms for one in bins], "--"),
                Line("age of answers, p95, ms", at, [one.p95_ms for one in bins]),
                Line("in time per second", at, [one.in_time_per_s for one in bins]),
                Line("offered per second", at, [one.offered_per_s for one in bins], ":"),
            ],
        ),
        Panel(
            "ms", [Line("learned limit of processing", scraped_at, [one.stage_limit_ms for one in scrapes])]
        ),
        Panel(
            "queries",
            [
                Line("concurrency limit", scraped_at, [one.concurrency_limit for one in scrapes]),
                Line("in flight", scraped_at, [one.in_flight for one in scrapes], ":"),
            ],
        ),
    ]
    draw(OUT / "slow.svg", panels, x_label="seconds", title="A node becomes slow, and recovers")


if __name__ == "__main__":
    run_verb(main)
