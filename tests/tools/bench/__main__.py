"""Compares fivestage with others, and measures latency, memory and its promises: ``make bench``.

Writes docs/bench/bench.md, contest.*, latency.* (with ``--kafka``: bench-kafka.md and so on). How to read it:
tests/tools/bench/README.md. Exit code 1 when a bar is not kept.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING

from . import batches, coinciding, hedge, idle, latency, memory, orchestration, rounds, workers
from .entries import CONTESTANTS
from .parts import Bar, Options, Part, file_name
from .report import save, table, write

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PARTS: dict[str, Callable[[Options], Awaitable[Part]]] = {
    "contest": rounds.measure,
    "orchestrator": orchestration.measure,
    "latency": latency.measure,
    "coinciding": coinciding.measure,
    "batches": batches.measure,
    "hedge": hedge.measure,
    "workers": workers.measure,
    "memory": memory.measure,
    "idle": idle.measure,
}


async def main() -> int:
    """Run the parts, print the results and write docs/bench; return the exit code."""
    options, names = _arguments()
    bars: list[Bar] = []
    text = []
    for name in names:
        part = await PARTS[name](options)
        shown = f"## {part.title}\n\n{part.table}\n"
        print(f"\n{shown}", flush=True)
        save(file_name(name, options), part.figures, {**options._asdict(), "kafka": bool(options.kafka)})
        text.append(shown)
        bars += part.bars
    verdict = table(["bar", "limit", "measured", "kept?"], [[*bar[:3], _word(bar.kept)] for bar in bars])
    print(f"\n{verdict}")
    heading = "# Measured on " + ("the embedded broker" if options.kafka is None else "a real Kafka")
    write(f"{file_name('bench', options)}.md", "\n".join([f"{heading}\n\n{verdict}\n", *text]))
    return 1 if any(bar.kept is False for bar in bars) else 0


def _word(kept: bool | None) -> str:  # noqa: FBT001 - three values
    return "not measured" if kept is None else "yes" if kept else "NO"


def _arguments() -> tuple[Options, list[str]]:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="which of them, separated by commas")
    parser.add_argument(
        "--rounds", type=int, default=5, help="how often the contest and the workers take turns"
    )
    parser.add_argument(
        "--queries", type=int, default=50_000, help="a run of fivestage; slower ones get fewer"
    )
    parser.add_argument("--only", help=f"contestants, of {','.join(CONTESTANTS)}")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a measurement of latency")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds that one run may take")
    parser.add_argument("--kafka", help="host:port of a real broker; otherwise an embedded one")
    given = parser.parse_args()
    names = given.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    options = Options(given.kafka, given.rounds, given.queries, given.only, given.seconds, given.limit)
    return options, names


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
