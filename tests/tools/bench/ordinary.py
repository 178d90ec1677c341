"""Ordinary apps in the service and in plain asyncio: how often each answers.

Bars: as often as plain asyncio, less 2 percentage points; with a declared client no event loop is blocked
and no worker replaced.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import aiohttp

from .children import Child, run_verb
from .load import Segment
from .observe import REPLACED, STALLED, Observed, observe
from .ordinary_app import ANSWER, ask_cold, ask_own, close_sessions, look_up
from .report import save, table, write

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TOTAL_S, INTENT_S, PROCESSING_S = 2.0, 0.05, 1.5
SETTINGS = {
    "pipeline.total_timeout_ms": 2000,
    "pipeline.stage_timeouts_ms": '{"processing": 1500}',
}
MAX_LESS = 0.02
SETTLE_S = 10.0
TEXTS = ["stall", *(f"{0.3 + 0.3 * number / 17:.2f}" for number in range(9))]
TEXTS += ["fail", *(f"{0.3 + 0.3 * number / 17:.2f}" for number in range(9, 18))]
"""One question in twenty stalls, one fails; the others are answered in 0.3 to 0.6 s."""
TITLES = [
    "app",
    "where",
    "queries",
    "answered %",
    "ended as",
    "restarts",
    "loops blocked",
    "replaced",
    "bars",
]


@dataclass(frozen=True)
class App:
    """An app of ``ordinary_app``."""

    meaning: str
    queries: int
    ask: Callable[[str], Awaitable[str]]
    """Its node's behaviour."""
    declares: bool = False
    """Its client is a resource."""


APPS = {
    "cold": App("makes a client on first use in each event loop, which blocks it for 50 ms", 300, ask_cold),
    "per_loop": App("asks a language model, with an aiohttp client made on first use", 500, ask_own),
    "shared": App("the same, with the client as `@app.resource`", 500, ask_own, declares=True),
}


@dataclass(frozen=True)
class Row:
    """The result of an app in one place."""

    app: str
    where: str
    queries: int
    answered: float
    ended_as: dict[str, int]
    plain: float
    """The answers of plain asyncio."""
    restarts: int = 0
    blocked: float = 0.0
    replaced: float = 0.0

    @property
    def failed_bars(self) -> list[str]:
        """Return the missed bars."""
        bars = {
            "answered": self.answered >= self.plain - MAX_LESS,
            "restarts": self.restarts == 0,
            "blocked": not APPS[self.app].declares or self.blocked == 0,
            "replaced": not APPS[self.app].declares or self.replaced == 0,
        }
        return [name for name, kept in bars.items() if not kept]


async def main() -> None:
    """Run all apps everywhere; print the table and write docs/bench/ordinary.*."""
    parser = argparse.ArgumentParser(prog="make bench-ordinary", description=__doc__)
    parser.add_argument("--apps", default=",".join(APPS))
    parser.add_argument("--executors", default="thread,process")
    parser.add_argument("--kafka", help="host:port of a real broker; otherwise an embedded one")
    parser.add_argument("--rate", type=float, default=40, help="queries a second")
    parser.add_argument("--queries", type=int, help="how many of them; otherwise 300 or 500")
    given = parser.parse_args()
    rows = []
    async with Child("-m", "tests.tools.bench.llm_server") as server:
        if server.ready is None or not await server.until_ready():
            raise SystemExit("the server of answers did not start")
        os.environ["LLM_URL"] = f"http://127.0.0.1:{server.ready.result()['port']}"
        for name in given.apps.split(","):
            queries = given.queries or APPS[name].queries
            rows.append(beside := await plain(name, queries, given.rate))
            for executor in given.executors.split(","):
                rows.append(await service(beside, executor, queries, given.rate, given.kafka))
                print(f"{name} {executor}: {rows[-1].ended_as}, plain asyncio {beside.ended_as}", flush=True)
    publish(rows, vars(given))


async def plain(name: str, queries: int, rate: float) -> Row:
    """The same work with nothing but asyncio, within the same limits."""
    loop = asyncio.get_running_loop()
    begin, tasks = loop.time(), []
    for number in range(queries):
        await asyncio.sleep(begin + number / rate - loop.time())
        work = _within_limits(APPS[name].ask, TEXTS[number % len(TEXTS)])
        tasks.append(asyncio.create_task(work))
    ended_as = Counter(await asyncio.gather(*tasks))
    await close_sessions()
    answered = ended_as["success"] / queries
    return Row(name, "plain asyncio", queries, answered, dict(ended_as), answered)


async def _within_limits(ask: Callable[[str], Awaitable[str]], question: str) -> str:
    """Return how a query ends."""
    try:
        async with asyncio.timeout(TOTAL_S):
            async with asyncio.timeout(INTENT_S):
                await look_up()
            async with asyncio.timeout(PROCESSING_S):
                answer = await ask(question)
    except TimeoutError:
        return "timeout"
    except aiohttp.ClientError as error:
        return f"error ({type(error).__name__})"
    return "success" if ANSWER in answer else "rejected"


async def service(beside: Row, executor: str, queries: int, rate: float, kafka: str | None) -> Row:
    """The app in the service, beside the row of what plain asyncio answered."""
    observed = await observe(
        f"ordinary_app:{beside.app}",
        {**SETTINGS, "executor.kind": executor},
        Segment(queries, TEXTS),
        rate=rate,
        settle_s=SETTLE_S,
        kafka=kafka,
    )
    return judge(beside, executor, queries, observed)


def judge(beside: Row, where: str, queries: int, observed: Observed) -> Row:
    """Build the row of what was observed."""
    ended_as = Counter(one.ended_as for one in observed.first.values())
    supervisor = observed.supervisor
    return Row(
        beside.app,
        where,
        queries,
        ended_as["success"] / queries,
        dict(ended_as.most_common()),
        beside.plain,
        supervisor.restarts,
        supervisor.summed(STALLED) or 0.0,
        supervisor.summed(REPLACED) or 0.0,
    )


def publish(rows: list[Row], options: dict[str, object]) -> None:
    """Print the table and write it and the figures."""
    text = table(TITLES, [_cells(row) for row in rows])
    print(text)
    how = (
        f"{options['rate']:g} queries a second, limits of 2 s in all and 1.5 s for the answer, else default "
        "settings. The language model is a server that streams an answer in 0.3 to 0.6 s; one question in 20 "
        "stalls, one fails."
    )
    apps = "\n".join(f"- *{name}*: {app.meaning}" for name, app in APPS.items())
    write("ordinary.md", f"# Ordinary apps beside plain asyncio\n\n{how}\n\n{text}\n\n{apps}\n")
    save("ordinary", [asdict(row) | {"failed_bars": row.failed_bars} for row in rows], options)


def _cells(row: Row) -> list[object]:
    return [
        row.app,
        row.where,
        row.queries,
        row.answered * 100,
        ", ".join(f"{name} {count}" for name, count in row.ended_as.items()),
        row.restarts,
        row.blocked,
        row.replaced,
        "FAIL " + " ".join(row.failed_bars) if row.failed_bars else "ok",
    ]


if __name__ == "__main__":
    run_verb(main)
