"""Two worker processes against one, with a node that computes."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from .answers import Answer, read_all
from .children import Service
from .drain import drain
from .entries import Contestant
from .parts import PARTITIONS, Bar, Options, Part, Spread, paired
from .place import places
from .report import table

if TYPE_CHECKING:
    from .place import Place

QUERIES = 250
IN_FLIGHT = 4
"""A worker: so many that wait for each other are in time."""
MIN_RATIO = 1.8


def contestant(workers: int) -> Contestant:
    """The service with so many."""

    def start(place: Place) -> Service:
        settings = {
            "executor.kind": "process",
            "executor.workers": workers,
            "admission.max_in_flight": IN_FLIGHT * workers,
        }
        return Service("compute_app:app", {**place.settings, **settings})

    return Contestant(start, 1.0)


async def measure(options: Options) -> Part:
    """Both in turn, so many rounds."""
    rounds: list[dict[str, float]] = []
    for _ in range(options.rounds):
        found: dict[str, float] = {}
        async with places(2, options.kafka, PARTITIONS) as there:
            for workers, place in zip((1, 2), there, strict=True):
                drained = await drain(place, contestant(workers), QUERIES * workers, options.limit_s)
                await _all_succeeded(place)
                found[str(workers)] = drained.per_second
        rounds.append(found)
    ratio = paired(rounds, "2", "1")
    rows = [[workers, Spread.of([one[workers] for one in rounds]).text()] for workers in ("1", "2")]
    rows.append(["ratio", ratio.text(2) if ratio else "-"])
    bar = Bar.at_least(
        "2 workers, queries a second by those of 1", ratio.median if ratio else None, MIN_RATIO
    )
    return Part("Worker processes", rounds, table(["workers", "queries/s"], rows), [bar])


async def _all_succeeded(place: Place) -> None:
    answers = await asyncio.to_thread(read_all, place.bootstrap, place.topics.results)
    statuses = Counter(Answer.of(message).status for message in answers)
    if set(statuses) != {"success"}:
        print(f"not all of them in time: {dict(statuses)}", flush=True)
