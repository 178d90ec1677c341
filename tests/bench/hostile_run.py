"""One row of the table of hostile nodes."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .answers import SUCCESS, Answer, asked_ms, collect, first_answers
from .children import Service
from .load import Load, Segment, offer, query_id
from .place import place
from .report import percentile
from .supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Iterable

GOOD = ("good-async", "good-def")
PARTITIONS = 8
REBALANCES = "fivestage_rebalances_total"
REPLACED = "fivestage_replaced_executors_total"
ABANDONED = "fivestage_abandoned_tasks"
MAX_P99_MS, MAX_MS, MIN_SUCCESS = 5.0, 50.0, 0.99


@dataclass(frozen=True)
class Options:
    """How much of what."""

    rate: float
    seconds: float
    share: float
    settle_s: float

    def segment(self, kind: str) -> Segment:
        """The queries' texts: every so manieth is hostile, the others take turns."""
        every = max(2, round(1 / self.share))
        texts = [GOOD[number % 2] for number in range(every * 2)]
        texts[every - 1] = texts[every * 2 - 1] = kind
        return Segment(int(self.rate * self.seconds), texts)


@dataclass(frozen=True)
class Row:
    """What became of everybody."""

    kind: str
    executor: str
    broker: str
    queries: int
    missing: int
    again: int
    """Answers beyond the first of their query, after a restart."""
    late_p99_ms: float
    late_max_ms: float
    record_late_p99_ms: float
    record_late_max_ms: float
    normal_success: float
    normal_ended_as: dict[str, int]
    normal_age_p99_ms: float | None
    hostile_ended_as: dict[str, int]
    rebalances: float | None
    restarts: int
    exit_codes: list[int | None]
    replaced: float | None
    abandoned: float

    @property
    def exit_code(self) -> int | None:
        """How it ended when it was told to."""
        return self.exit_codes[-1]

    @property
    def failed_bars(self) -> list[str]:
        """The bars that it does not keep to."""
        bars = {
            "missing": self.missing == 0,
            "p99": max(self.late_p99_ms, self.record_late_p99_ms) <= MAX_P99_MS,
            "max": max(self.late_max_ms, self.record_late_max_ms) <= MAX_MS,
            "normal": self.normal_success >= MIN_SUCCESS,
            "group": self.rebalances == 1 and self.restarts == 0,
        }
        return [name for name, kept in bars.items() if not kept]

    @property
    def verdict(self) -> str:
        """For the table."""
        return "FAIL " + " ".join(self.failed_bars) if self.failed_bars else "ok"

    @property
    def log(self) -> str:
        """For those who wait."""
        return f"missing {self.missing}, normal {self.normal_ended_as}, hostile {self.hostile_ended_as}"


async def run(kind: str, executor: str, kafka: str | None, options: Options) -> Row:
    """Measure one row.

    Raises:
        RuntimeError: the service does not start with this executor, or does not use it.
    """
    async with place(kafka, PARTITIONS) as here:
        settings = {**here.settings, "executor.kind": executor, "tracing.sample_ratio": 0}
        supervisor = Supervisor(
            lambda: Service("hostile_app:app", settings), (ABANDONED,), with_workers=executor == "process"
        )
        async with supervisor:
            segment = options.segment(kind)
            limit_s = options.seconds + options.settle_s
            reading = asyncio.create_task(collect(here.bootstrap, here.topics.results, segment.size, limit_s))
            await offer(Load(here.bootstrap, here.topics.queries, options.rate, [segment]))
            answers = await reading
        asked = await asyncio.to_thread(asked_ms, here.bootstrap, here.topics.queries)
    broker = "embedded" if kafka is None else "kafka"
    return _judge(kind, executor, broker, segment, asked, answers, supervisor)


def _judge(
    kind: str,
    executor: str,
    broker: str,
    segment: Segment,
    asked: dict[str, int],
    answers: list[Answer],
    supervisor: Supervisor,
) -> Row:
    first = first_answers(answers)
    hostile = _hostile(segment)
    normal = [first[name] for name in asked if name in first and name not in hostile]
    late = _late((one.finished_ms, one.ends_ms) for one in first.values())
    record_late = _late((one.created_ms, one.ends_ms) for one in first.values())
    ended_as = Counter(one.status for one in normal)
    ages = [float(one.created_ms - asked[one.query_id]) for one in normal]
    return Row(
        kind=kind,
        executor=executor,
        broker=broker,
        queries=segment.size,
        missing=segment.size - len(first),
        again=len(answers) - len(first),
        late_p99_ms=late[0],
        late_max_ms=late[1],
        record_late_p99_ms=record_late[0],
        record_late_max_ms=record_late[1],
        normal_success=ended_as[SUCCESS] / (segment.size - len(hostile)),
        normal_ended_as=dict(ended_as),
        normal_age_p99_ms=percentile(ages, 0.99),
        hostile_ended_as=dict(Counter(_end(first[name]) for name in hostile if name in first)),
        rebalances=supervisor.highest(REBALANCES),
        restarts=supervisor.restarts,
        exit_codes=[life.exit_code for life in supervisor.lives],
        replaced=supervisor.summed(REPLACED),
        abandoned=supervisor.peak(ABANDONED),
    )


def _hostile(segment: Segment) -> set[str]:
    """The ids of the hostile queries."""
    texts = segment.texts
    return {query_id(number) for number in range(segment.size) if texts[number % len(texts)] not in GOOD}


def _late(times: Iterable[tuple[float | None, float | None]]) -> tuple[float, float]:
    """How far ends lie behind deadlines: 99 of 100, and all."""
    late = [max(0.0, end - deadline) for end, deadline in times if end is not None and deadline is not None]
    return percentile(late, 0.99) or 0.0, max(late, default=0.0)


def _end(answer: Answer) -> str:
    kind = answer.error_type
    return answer.status if kind in {None, answer.status} else f"{answer.status} ({kind})"
