"""The orchestrator alone: five empty stages, beside nested ``asyncio.wait_for``; no Kafka.

Both give each stage its limit and the whole its own, and end with the JSON of five StageResults.
"""

from __future__ import annotations

import asyncio
import gc
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fivestage.core.codec.event_json import Envelope, EventJson
from fivestage.core.job import Job
from fivestage.core.outcome import conclude
from fivestage.core.plan import Plan
from fivestage.core.records import NOT_FROM_KAFKA
from fivestage.pipeline.context import Query
from fivestage.pipeline.orchestrator import Orchestrator
from fivestage_schemas import Outcome, StageResult

from .parts import Bar, Options, Part, Spread, paired
from .report import table
from .trivial_app import app

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fivestage.core.plan import StageSpec

QUERIES = 2000
BLOCKS = 15
MAX_RATIO = 1 / 3
OURS, NESTED = "fivestage, inline", "nested wait_for"
PLAN = Plan.of()
RETURNED: list[Any] = [
    {"intent": "any", "confidence": 1.0},
    "echo",
    {"answer": "2+2", "confidence": 1.0},
    True,
    {"verdict": "confirmed"},
]


async def measure(_options: Options) -> Part:
    """Blocks of both in turn, in this process."""
    orchestrator = Orchestrator(app, plan=PLAN)
    assert len(await ours(orchestrator)) == len(await nested()) == len(PLAN.stages)
    blocks = [
        {OURS: await _cpu_us(lambda: ours(orchestrator)), NESTED: await _cpu_us(nested)}
        for _ in range(BLOCKS)
    ]
    orchestrator.threads.close()
    ratio = paired(blocks, OURS, NESTED)
    rows = [[name, Spread.of([one[name] for one in blocks]).text(1)] for name in (OURS, NESTED)]
    rows.append(["ratio", ratio.text(2) if ratio else "-"])
    bar = Bar.at_most(
        "orchestrator alone, CPU by that of nested wait_for", ratio.median if ratio else None, MAX_RATIO
    )
    return Part(
        "Orchestrator alone", blocks, table(["five stages that do nothing", "CPU us/query"], rows), [bar]
    )


async def _cpu_us(answer: Callable[[], Awaitable[Any]]) -> float:
    gc.collect()
    started = time.thread_time()
    for _ in range(QUERIES):
        await answer()
    return (time.thread_time() - started) / QUERIES * 1e6


async def ours(orchestrator: Orchestrator) -> list[bytes]:
    """As the service runs a query, on the same loop (``InlineExecutor``)."""
    loop = asyncio.get_running_loop()
    now = loop.time()
    job = Job(Query("q1", "2+2", "prod", {}), PLAN, started_at=now, ends_at=now + PLAN.total_s)
    envelope = Envelope(NOT_FROM_KAFKA, "q1", "prod", started_wall=time.time(), started_at=now)
    timer = loop.call_at(job.ends_at, job.end)
    await asyncio.create_task(orchestrator.run(job, job.history))
    timer.cancel()
    conclusion = conclude(job.history, PLAN, started_at=now, ends_at=job.ends_at, now=loop.time())
    written = EventJson(envelope)
    return [written.stage(run, conclusion.earlier) for run in conclusion.runs]


async def nested() -> list[bytes]:
    """Run as written by hand: a wait_for for the whole, and one for each stage."""
    return [result.model_dump_json().encode() for result in await asyncio.wait_for(_stages(), PLAN.total_s)]


async def _stages() -> list[StageResult]:
    return [await _stage(spec, data) for spec, data in zip(PLAN.stages, RETURNED, strict=True)]


async def _stage(spec: StageSpec, data: Any) -> StageResult:
    started, at = time.monotonic(), datetime.now(UTC)
    outcome, error = Outcome.SUCCESS, None
    try:
        found = await asyncio.wait_for(_nothing(data), spec.limit_s)
    except TimeoutError:
        found, outcome, error = None, Outcome.TIMEOUT, "timeout"
    except Exception as raised:  # noqa: BLE001 - a stage may raise anything
        found, outcome, error = None, Outcome.ERROR, str(raised)
    return StageResult(
        query_id="q1",
        stage_type=spec.stage_type,
        sequence=spec.sequence,
        outcome=outcome,
        success=outcome is Outcome.SUCCESS,
        timeout=outcome is Outcome.TIMEOUT,
        critical=spec.critical,
        data=found,
        error=error,
        node="echo" if spec.sequence == 2 else None,
        duration_ms=round((time.monotonic() - started) * 1000, 3),
        timeout_ms=spec.limit_s * 1000,
        started_at=at,
        lane="prod",
    )


async def _nothing(data: Any) -> Any:
    return data
