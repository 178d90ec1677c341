"""The contest: all contestants work off a backlog in turn, on one new broker per round."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .check import check
from .drain import Drained, NotMeasured, drain
from .entries import (
    FIVESTAGE,
    HANDWRITTEN,
    INTERPRETED,
    PROCESSES,
    RAW_SEND,
    REJECTED,
    SIMPLE,
    WITH,
    Contestant,
    chosen,
    compiled,
    is_ours,
    other,
)
from .parts import PARTITIONS, Bar, Options, Part, Spread, file_name, in_turn, paired
from .place import places
from .plot import Bars, draw_bars
from .report import OUT, table
from .yardstick import Yardstick, yardstick

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class Limit(NamedTuple):
    """What a query may cost, by what it costs in another contestant."""

    name: str
    beside: str
    compiled: float
    interpreted: float


LIMITS = (
    *(
        limit
        for name in (FIVESTAGE, INTERPRETED, WITH)
        for limit in (Limit(name, HANDWRITTEN, 0.22, 0.5), Limit(name, SIMPLE, 0.4, 0.9))
    ),
    Limit(FIVESTAGE, RAW_SEND, 1.3, 1.3),
    Limit(REJECTED, HANDWRITTEN, 0.04, 0.04),
    Limit(PROCESSES, FIVESTAGE, 1.25, 1.25),
    Limit(FIVESTAGE, "faststream", 0.1, 0.1),
    Limit(FIVESTAGE, "faststream-batch", 0.1, 0.1),
)
OPTIONAL = (INTERPRETED, WITH)
"""Not every run has them."""
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
    field = chosen(options.only, options.other_python)
    if not options.quick:
        await check(field, options.kafka, options.limit_s)
    rounds, yardsticks = list[Round](), list[Yardstick]()
    for number in range(options.rounds):
        yardsticks.append(yardstick())
        rounds.append(await _round(field, number, options))
    figures = [{name: drained._asdict() for name, drained in one.items()} for one in rounds]
    if options.publishes:
        _draw(rounds, options)
    builds = {name: compiled(one.python) for name, one in field.items() if is_ours(name)}
    return Part("Contest", figures, _table(field, rounds), [*bars(rounds, builds)], yardsticks)


async def _round(field: dict[str, Contestant], number: int, options: Options) -> Round:
    """All of them once; each round begins with another."""
    names = in_turn(field, number)
    found: Round = {}
    async with places(len(names), options.kafka, PARTITIONS) as there:
        for name, place in zip(names, there, strict=True):
            count = max(1, int(options.queries * field[name].share))
            try:
                found[name] = drained = await drain(place, field[name], count, options.limit_s)
            except NotMeasured as problem:
                print(f"round {number + 1} {name} does not count: {problem}", flush=True)
                continue
            except SystemExit as problem:
                raise SystemExit(f"{name}: {problem}") from None
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
    for name, contestant in field.items():
        mine = [one[name] for one in rounds if name in one]
        if not mine:
            continue
        ratio = paired(cpu(rounds), name, contestant.beside)
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
    return "\n\n".join([table(TITLES, rows), *with_table(cpu(rounds))])


def with_table(rounds: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """Divide the CPU of each fivestage in the environment of ``--with`` by that of the same one here."""
    names = dict.fromkeys(name for one in rounds for name in one if is_ours(name))
    ratios = {other(name): paired(rounds, other(name), name) for name in names}
    rows = [[name, ratio.text(3)] for name, ratio in ratios.items() if ratio]
    if rows:
        yield table(["in the other environment", "CPU by that in this one"], rows)


def bars(rounds: Sequence[Round], builds: Mapping[str, bool]) -> Iterator[Bar]:
    """Compare the ratios with their limits.

    Args:
        rounds: What was measured.
        builds: Whether each fivestage in them is compiled.
    """
    for limit in LIMITS:
        if limit.name in builds or limit.name not in OPTIONAL:
            ratio = paired(cpu(rounds), limit.name, limit.beside)
            most = limit.compiled if builds.get(limit.name) else limit.interpreted
            name = f"{limit.name}: CPU a query, by that of {limit.beside}"
            yield Bar.at_most(name, ratio.median if ratio else None, most)
    ours = [one[FIVESTAGE].cpu_us for one in rounds if FIVESTAGE in one]
    per_core = 1e6 / Spread.of(ours).median if ours else None
    yield Bar.at_least("queries a second and core", per_core, MIN_PER_CORE)
    ratio = paired(speed(rounds), FIVESTAGE, RAW_SEND)
    yield Bar.at_least(
        "queries a second, by those of aiokafka's send()", ratio.median if ratio else None, 1.0
    )


def _draw(rounds: Sequence[Round], options: Options) -> None:
    names = list(dict.fromkeys(name for one in rounds for name in one))
    both = [
        Bars(label, [Spread.of([one[name] for one in figures if name in one]) for name in names])
        for label, figures in (("CPU us a query", cpu(rounds)), ("queries a second", speed(rounds)))
    ]
    broker = "embedded broker" if options.kafka is None else "Kafka"
    draw_bars(
        OUT / f"{file_name('contest', options)}.svg",
        names,
        both,
        title=f"One query in, six events out: {broker}",
    )
