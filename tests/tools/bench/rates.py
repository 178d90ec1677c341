"""The CPU of a query at low rates, with default settings, beside the hand-written loop."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from fivestage.kafka.settings import KafkaSettings

from . import backlog
from .drain import NotMeasured, complete, sample
from .entries import FIVESTAGE, HANDWRITTEN, Contestant, other, script, service, with_python
from .load import Load, Segment, offer
from .parts import PARTITIONS, Bar, Options, Part, Spread, in_turn, paired
from .place import places
from .report import table
from .rounds import with_table
from .yardstick import Yardstick, yardstick

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .drain import Sample
    from .place import Place

FETCH_WAIT_MS = KafkaSettings.model_fields["fetch_max_wait_ms"].default
"""The service's default, and that of the hand-written loop here."""
RATED = {
    FIVESTAGE: Contestant(service(kafka__fetch_max_wait_ms=FETCH_WAIT_MS), 1.0),
    HANDWRITTEN: Contestant(script("handwritten", f"--fetch-wait-ms={FETCH_WAIT_MS}"), 1.0),
}
PROBES = 10
SETTLE_S = 2.0
"""Between the first queries and the measurement."""
RATE, MAX_OF_HANDWRITTEN = 350, 0.6

Round = dict[str, float]


async def measure(options: Options) -> Part:
    """Measure all in turn at each rate, for several rounds."""
    field = RATED | with_python(RATED, options.other_python)
    rounds, yardsticks = list[Round](), list[Yardstick]()
    for number in range(options.rounds):
        yardsticks.append(yardstick())
        rounds.append(await _round(field, number, options))
    return Part("Low rates", rounds, _table(field, rounds, options), [*_bars(rounds, options)], yardsticks)


async def _round(field: Mapping[str, Contestant], number: int, options: Options) -> Round:
    names = in_turn(field, number)
    found: Round = {}
    async with places(len(names) * len(options.rates), options.kafka, PARTITIONS) as there:
        free = iter(there)
        for rate in options.rates:
            for name in names:
                try:
                    first_sample, last_sample = await spend(next(free), field[name], rate, options.seconds)
                except NotMeasured as problem:
                    print(f"round {number + 1} {at(name, rate)} does not count: {problem}", flush=True)
                    continue
                answered = last_sample.answered - first_sample.answered
                cpu_us = (last_sample.cpu_s - first_sample.cpu_s) / answered * 1e6
                found[at(name, rate)] = cpu_us
                print(f"round {number + 1} {name} at {rate}/s: {cpu_us:.0f} us CPU", flush=True)
    return found


async def spend(place: Place, contestant: Contestant, rate: int, seconds: float) -> tuple[Sample, Sample]:
    """Offer queries at a rate, and return samples of the contestant *seconds* apart.

    Raises:
        SystemExit: not all queries were answered.
        NotMeasured: too few as expected.
    """
    await asyncio.to_thread(backlog.write, place, PROBES)
    ends = await asyncio.to_thread(backlog.Ends, place)
    try:
        async with contestant.start(place) as child:
            await complete(ends, child, contestant, PROBES)
            size = int(rate * (2 * SETTLE_S + seconds))
            load = Load(place.bootstrap, place.topics.queries, rate, [Segment(size, ["2+2"])])
            offering = asyncio.create_task(offer(load)) if rate else None
            await asyncio.sleep(SETTLE_S)
            first = await sample(ends, child)
            await asyncio.sleep(first.at + seconds - time.monotonic())
            last = await sample(ends, child)
            if offering is not None:
                await offering
                await complete(ends, child, contestant, PROBES + size)
    finally:
        ends.close()
    return first, last


def at(name: str, rate: int) -> str:
    """Return the name of a figure."""
    return f"{name} at {rate}/s"


def _table(field: Mapping[str, Contestant], rounds: Sequence[Round], options: Options) -> str:
    rows = []
    for rate in options.rates:
        for name in field:
            mine = [one[at(name, rate)] for one in rounds if at(name, rate) in one]
            if mine:
                ratio = paired(rounds, at(name, rate), at(HANDWRITTEN, rate))
                rows.append([at(name, rate), Spread.of(mine).text(), ratio.text(2) if ratio else None])
    shown = table(["contestant", "CPU us/query", "of hand-written"], rows)
    return "\n\n".join([shown, *with_table(rounds)])


def _bars(rounds: Sequence[Round], options: Options) -> Iterator[Bar]:
    names = [FIVESTAGE] if options.other_python is None else [FIVESTAGE, other(FIVESTAGE)]
    for name in names:
        ratio = paired(rounds, at(name, RATE), at(HANDWRITTEN, RATE))
        yield Bar.at_most(
            f"{at(name, RATE)}: CPU a query, by that of {HANDWRITTEN}",
            ratio.median if ratio else None,
            MAX_OF_HANDWRITTEN,
        )
