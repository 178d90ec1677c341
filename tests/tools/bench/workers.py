"""Two worker processes against one, with a node that computes."""

from __future__ import annotations

from .drain import drain
from .entries import Contestant, service
from .parts import PARTITIONS, Bar, Options, Part, Spread, paired
from .place import places
from .report import table

QUERIES = 250
IN_FLIGHT = 4
"""A worker: so many that wait for each other are in time."""
MIN_RATIO = 1.8


def contestant(workers: int) -> Contestant:
    """The service with so many."""
    settings = {"executor__workers": workers, "admission__max_in_flight": IN_FLIGHT * workers}
    return Contestant(service("compute_app:app", executor__kind="process", **settings), 1.0)


async def measure(options: Options) -> Part:
    """Both in turn, so many rounds."""
    rounds: list[dict[str, float]] = []
    for _ in range(options.rounds):
        found: dict[str, float] = {}
        async with places(2, options.kafka, PARTITIONS) as there:
            for workers, place in zip((1, 2), there, strict=True):
                drained = await drain(place, contestant(workers), QUERIES * workers, options.limit_s)
                found[str(workers)] = drained.per_second
        rounds.append(found)
    ratio = paired(rounds, "2", "1")
    rows = [[workers, Spread.of([one[workers] for one in rounds]).text()] for workers in ("1", "2")]
    rows.append(["ratio", ratio.text(2) if ratio else "-"])
    bar = Bar.at_least(
        "2 workers, queries a second by those of 1", ratio.median if ratio else None, MIN_RATIO
    )
    return Part("Worker processes", rounds, table(["workers", "queries/s"], rows), [bar])
