"""The contest: all contestants work off a backlog in turn, on one new broker per round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .check import check
from .drain import Drained, drain
from .entries import FIVESTAGE, HANDWRITTEN, RAW_SEND, Contestant, chosen
from .parts import PARTITIONS, Bar, Options, Part, Spread, file_name, paired
from .place import places
from .plot import Bars, draw_bars
from .report import OUT, table

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_OF_HANDWRITTEN, MAX_OF_FASTSTREAM = 1 / 3, 1 / 10
MIN_PER_CORE = 12_000
TITLES = [
    "contestant",
    "CPU us/query",
    "of hand-written",
    "queries/s",
    "cores",
    "queries per CPU second",
    "peak MB",
]

Round = dict[str, Drained]


async def measure(options: Options) -> Part:
    """Check all contestants, then run the rounds."""
    field = chosen(options.only)
    await check(field, options.kafka, options.limit_s)
    rounds = [await _round(field, number, options) for number in range(options.rounds)]
    figures = [{name: drained._asdict() for name, drained in one.items()} for one in rounds]
    _draw(rounds, options)
    return Part("Contest", figures, _table(field, rounds), _bars(rounds))


async def _round(field: dict[str, Contestant], number: int, options: Options) -> Round:
    """All of them once; each round begins with another."""
    first = number % len(field)
    names = [*field][first:] + [*field][:first]
    found: Round = {}
    async with places(len(names), options.kafka, PARTITIONS) as there:
        for name, place in zip(names, there, strict=True):
            count = max(1, int(options.queries * field[name].share))
            found[name] = drained = await drain(place, field[name], count, options.limit_s)
            print(
                f"round {number + 1} {name}: {drained.cpu_us:.0f} us CPU, {drained.per_second:.0f}/s",
                flush=True,
            )
    return found


def cpu(rounds: Sequence[Round]) -> list[dict[str, float]]:
    """CPU a query, by round and contestant."""
    return [{name: drained.cpu_us for name, drained in one.items()} for one in rounds]


def speed(rounds: Sequence[Round]) -> list[dict[str, float]]:
    """Queries a second, by round and contestant."""
    return [{name: drained.per_second for name, drained in one.items()} for one in rounds]


def _table(field: dict[str, Contestant], rounds: Sequence[Round]) -> str:
    rows = []
    for name in field:
        mine = [one[name] for one in rounds]
        ratio = paired(cpu(rounds), name, HANDWRITTEN)
        rows.append(
            [
                name,
                Spread.of([one.cpu_us for one in mine]).text(),
                ratio.text(2) if ratio else None,
                Spread.of([one.per_second for one in mine]).text(),
                f"{Spread.of([one.cores for one in mine]).median:.2f}",
                round(Spread.of([1e6 / one.cpu_us for one in mine]).median),
                round(max(one.peak_mb for one in mine)),
            ]
        )
    return table(TITLES, rows)


def _bars(rounds: Sequence[Round]) -> list[Bar]:
    found = []
    for other, limit in (
        (HANDWRITTEN, MAX_OF_HANDWRITTEN),
        ("faststream", MAX_OF_FASTSTREAM),
        ("faststream-batch", MAX_OF_FASTSTREAM),
    ):
        ratio = paired(cpu(rounds), FIVESTAGE, other)
        found.append(Bar.at_most(f"CPU a query, by that of {other}", ratio.median if ratio else None, limit))
    ours = [one[FIVESTAGE].cpu_us for one in rounds if FIVESTAGE in one]
    per_core = 1e6 / Spread.of(ours).median if ours else None
    found.append(Bar.at_least("queries a second and core", per_core, MIN_PER_CORE))
    ratio = paired(speed(rounds), FIVESTAGE, RAW_SEND)
    found.append(
        Bar.at_least("queries a second, by those of aiokafka's send()", ratio.median if ratio else None, 1.0)
    )
    return found


def _draw(rounds: Sequence[Round], options: Options) -> None:
    names = list(rounds[0])
    both = [
        Bars(label, [Spread.of([one[name] for one in figures]) for name in names])
        for label, figures in (("CPU us a query", cpu(rounds)), ("queries a second", speed(rounds)))
    ]
    broker = "embedded broker" if options.kafka is None else "Kafka"
    draw_bars(
        OUT / f"{file_name('contest', options)}.svg",
        names,
        both,
        title=f"One query in, six events out: {broker}",
    )
