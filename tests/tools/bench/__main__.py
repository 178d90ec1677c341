"""Compares fivestage with others, and measures latency, memory and its promises: ``make bench``.

Writes docs/bench/bench.md, contest.*, latency.* (with ``--kafka``: bench-kafka.md and so on), unless it is
``--quick`` or compares two environments (``--with``). How to read it: tests/tools/bench/README.md. Exit
code 1 when a bar is not kept.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from . import batches, coinciding, hedge, idle, latency, llm, memory, orchestration, rates, rounds, workers
from .children import run_verb
from .entries import CONTESTANTS, QUICK
from .parts import Bar, Options, Part, file_name
from .report import DESTINATION, describe_machine, save, table, write
from .yardstick import Yardstick, yardstick

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PARTS: dict[str, Callable[[Options], Awaitable[Part]]] = {
    "contest": rounds.measure,
    "rates": rates.measure,
    "idle": idle.measure,
    "orchestrator": orchestration.measure,
    "latency": latency.measure,
    "coinciding": coinciding.measure,
    "batches": batches.measure,
    "llm": llm.measure,
    "hedge": hedge.measure,
    "workers": workers.measure,
    "memory": memory.measure,
}
FULL: dict[str, Any] = {
    "parts": ",".join(PARTS),
    "rounds": 5,
    "queries": 50_000,
    "rates": "50,350,1000",
    "seconds": 10.0,
}
SHORT: dict[str, Any] = {
    "parts": "contest,rates,idle",
    "only": ",".join(QUICK),
    "rounds": 3,
    "queries": 10_000,
    "rates": "350",
    "seconds": 4.0,
}
"""With ``--quick``."""


async def main() -> int:
    """Run the parts, print the results and write docs/bench; return the exit code."""
    options, names = _arguments()
    bars: list[Bar] = []
    text = []
    yardsticks: list[Yardstick] = []
    for name in names:
        yardsticks.append(yardstick())
        part = await PARTS[name](options)
        shown = f"## {part.title}\n\n{part.table}\n"
        print(f"\n{shown}", flush=True)
        if options.publishes:
            given = {**options._asdict(), "kafka": bool(options.kafka)}
            save(file_name(name, options), part.figures, given, part.yardsticks)
        text.append(shown)
        bars += part.bars
        yardsticks += part.yardsticks
    text.append(f"## Machine\n\n{describe_machine(yardsticks)}\n")
    verdict = table(["bar", "limit", "measured", "kept?"], [[*bar[:3], _word(bar.kept)] for bar in bars])
    print(f"\n{text[-1]}\n{verdict}")
    if options.publishes:
        heading = "# Measured on " + ("the embedded broker" if options.kafka is None else "a real Kafka")
        write(f"{file_name('bench', options)}.md", "\n".join([f"{heading}\n\n{verdict}\n", *text]))
    return 1 if any(bar.kept is False for bar in bars) else 0


def _word(kept: bool | None) -> str:  # noqa: FBT001 - three values
    return "not measured" if kept is None else "yes" if kept else "NO"


def _arguments() -> tuple[Options, list[str]]:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the ratios of CPU alone, in three minutes")
    parser.add_argument(
        "--with", dest="python", help="also run fivestage with this Python, of another environment"
    )
    parser.add_argument("--parts", help=f"which of {','.join(PARTS)}")
    parser.add_argument("--rounds", type=int, help="how often contest, rates and workers take turns")
    parser.add_argument("--queries", type=int, help="a run of fivestage; slower ones get fewer")
    parser.add_argument("--rates", help="queries a second, separated by commas")
    parser.add_argument("--only", help=f"contestants, of {','.join(CONTESTANTS)}")
    parser.add_argument("--seconds", type=float, help="length of a measurement at a rate")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds that one run may take")
    parser.add_argument("--kafka", help="host:port of a real broker; otherwise an embedded one")
    parser.set_defaults(**(SHORT if "--quick" in sys.argv else FULL))
    given = parser.parse_args()
    names = given.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if given.python and not os.access(given.python, os.X_OK):
        parser.error(
            f"--with needs the Python of an environment, such as .venv/bin/python, not {given.python}"
        )
    return _options(given), names


def _options(given: argparse.Namespace) -> Options:
    return Options(
        kafka=given.kafka,
        rounds=given.rounds,
        queries=given.queries,
        only=given.only,
        seconds=given.seconds,
        limit_s=given.limit,
        rates=[int(rate) for rate in given.rates.split(",")],
        quick=given.quick,
        other_python=given.python and os.path.abspath(given.python),  # noqa: PTH100 - resolve() leaves a venv
        publishes=DESTINATION in os.environ or not (given.quick or given.python),
    )


if __name__ == "__main__":
    run_verb(main)
