"""Many deadlines in one millisecond: how late the terminal events reach the producer; no Kafka.

As many queries as allowed run, all for a node that does not end, and as many wait for their slots: the
running ones are answered at the deadline, before the others start.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import orjson

from fivestage import Pipeline
from fivestage.core.observer import Observer
from fivestage.executors import ThreadExecutor, interpreter
from fivestage.pipeline.orchestrator import Orchestrator
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus
from fivestage_schemas import headers as h

from .parts import Bar, Options, Part, Spread
from .report import percentile, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fivestage.core.job import Job
    from fivestage.core.records import OutputRecord

QUERIES = 256
ROUNDS = 7
LIMIT_MS = 20.0
SETTINGS = Settings.model_validate(
    {
        "admission": {"adaptive_limit": False, "max_in_flight": QUERIES},
        "adaptive": {"enabled": False},
        "pipeline": {"stage_timeouts_ms": {"processing": 250}},
    }
)
app = Pipeline(builtins=False)


@app.intent
async def _intent(_query: Any, _ctx: Any) -> dict[str, str]:
    return {"intent": "waits"}


@app.node("waits", intents={"waits"})
async def _waits(_query: Any, _ctx: Any) -> None:
    await asyncio.sleep(5)


class _Timed(ThreadExecutor):
    """Records when each query must end."""

    def __init__(self) -> None:
        orchestrator = Orchestrator(app, plan=SETTINGS.pipeline.plan(), threads=4)
        super().__init__(orchestrator, observer=Observer(), stall_s=0.03)
        self.ends: dict[str, float] = {}

    def submit(self, job: Job) -> None:
        """See Executor."""
        self.ends[job.query.query_id] = job.ends_at
        super().submit(job)


async def measure(_options: Options) -> Part:
    """Run some rounds in this process, with the service's interpreter settings."""
    interpreter.share_the_interpreter()
    rounds = [await _late_ms() for _ in range(ROUNDS)]
    figures = {
        name: Spread.of([percentile(late, share) or 0.0 for late in rounds])
        for name, share in (("p50", 0.5), ("p99", 0.99))
    }
    rows = [[name, spread.text(1)] for name, spread in figures.items()]
    bar = Bar.at_most(
        f"{QUERIES} deadlines in one millisecond, events late by (p99)",
        figures["p99"].median,
        LIMIT_MS,
        " ms",
    )
    return Part("Deadlines that coincide", rounds, table(["of the terminal events", "late, ms"], rows), [bar])


async def _late_ms() -> list[float]:
    """Return the lateness of the first queries' events, with as many queries waiting."""
    executor, at = _Timed(), dict[str, float]()
    async with MemoryBus(app, settings=SETTINGS, executor=executor) as bus:
        publish = bus.sink.publish

        def note(records: Sequence[OutputRecord], *rest: Any) -> None:
            at[dict(records[0].headers)[h.CE_SUBJECT].decode()] = time.monotonic()
            publish(records, *rest)

        bus.sink.publish = note  # type: ignore[method-assign, assignment]
        for number in range(2 * QUERIES):
            bus.put(orjson.dumps({"query_id": f"q{number}", "user_input": "any"}))
        while len(at) < QUERIES:
            await bus.sink.published()
        first = [f"q{number}" for number in range(QUERIES)]
        return sorted(1000 * (at[name] - executor.ends[name]) for name in first)
