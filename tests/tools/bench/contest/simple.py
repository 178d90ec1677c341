"""A contestant: what a user writes on a normal day on aiokafka.

Models in and out, ``wait_for`` around the query and each stage, ``send()``, a semaphore, a commit after each
batch. No metrics, no spans, no CloudEvents headers.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from fivestage_schemas import (
    Outcome,
    PipelineMetrics,
    PipelineResult,
    PipelineStatus,
    QueryEvent,
    Source,
    StageResult,
)

from .arguments import Arguments
from .stages import STAGES, TOTAL_S

if TYPE_CHECKING:
    from .stages import Stage

SLOTS, BATCH = 64, 500
LANE = "prod"


async def run(given: Arguments) -> None:
    """Work until cancelled."""
    consumer = AIOKafkaConsumer(
        given.queries,
        bootstrap_servers=given.bootstrap,
        group_id=given.group_id,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    producer = AIOKafkaProducer(bootstrap_servers=given.bootstrap, acks="all", linger_ms=5)
    slots = asyncio.Semaphore(SLOTS)

    async def answer(record: Any) -> None:
        async with slots:
            query = QueryEvent.model_validate_json(record.value)
            result = await answered(query, record)
            events = [(given.stage_results, stage) for stage in result.stages] + [(given.results, result)]
            sent = [
                await producer.send(topic, event.model_dump_json().encode(), key=record.key)
                for topic, event in events
            ]
        for future in sent:
            await future

    async with consumer, producer:
        while True:
            found = await consumer.getmany(timeout_ms=1000, max_records=BATCH)
            async with asyncio.TaskGroup() as tasks:
                for records in found.values():
                    for record in records:
                        tasks.create_task(answer(record))
            if found:
                await consumer.commit()


async def answered(query: QueryEvent, record: Any) -> PipelineResult:
    """Return a query's result, whatever becomes of it."""
    started, at = time.monotonic(), datetime.now(UTC)
    stages: list[StageResult] = []
    status, error = PipelineStatus.SUCCESS, None
    try:
        await asyncio.wait_for(_stages(query, stages), TOTAL_S)
    except TimeoutError:
        status, error = PipelineStatus.TIMEOUT, "timeout"
    except Exception as raised:  # noqa: BLE001 - a stage may raise anything
        status, error = PipelineStatus.ERROR, str(raised)
    took_ms = (time.monotonic() - started) * 1000
    answer = stages[2].data if len(stages) > 2 else None
    return PipelineResult(
        query_id=query.query_id,
        status=status,
        answer=answer["answer"] if answer else None,
        confidence=answer["confidence"] if answer else None,
        error=error,
        node="echo",
        lane=LANE,
        stages=stages,
        metrics=PipelineMetrics(
            total_duration_ms=took_ms,
            queue_ms=max(0.0, at.timestamp() * 1000 - record.timestamp),
            stage_durations={stage.stage_type.value: stage.duration_ms for stage in stages},
            stages_completed=len(stages),
            stages_failed=0 if error is None else 1,
            stages_skipped=0,
            timeout_count=int(status is PipelineStatus.TIMEOUT),
            budget_ms=TOTAL_S * 1000,
            within_budget=took_ms <= TOTAL_S * 1000,
        ),
        started_at=at,
        finished_at=datetime.now(UTC),
        source=Source(topic=record.topic, partition=record.partition, offset=record.offset),
    )


async def _stages(query: QueryEvent, done: list[StageResult]) -> None:
    for stage in STAGES:
        result = await _stage(query, stage)
        done.append(result)


async def _stage(query: QueryEvent, stage: Stage) -> StageResult:
    started, at = time.monotonic(), datetime.now(UTC)
    data = await asyncio.wait_for(stage.call(query), stage.limit_s)
    return StageResult(
        query_id=query.query_id,
        stage_type=stage.kind,
        sequence=stage.sequence,
        outcome=Outcome.SUCCESS,
        success=True,
        timeout=False,
        critical=stage.critical,
        data=data,
        node=stage.node,
        duration_ms=(time.monotonic() - started) * 1000,
        timeout_ms=stage.limit_s * 1000,
        started_at=at,
        lane=LANE,
    )


if __name__ == "__main__":
    asyncio.run(run(Arguments.read()))
