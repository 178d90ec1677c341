"""One row of the table of hostile nodes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .answers import SUCCESS
from .hostile_kinds import KINDS, calls_of, segment
from .observe import ABANDONED, REBALANCES, REPLACED, Observed, observe
from .report import percentile

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from .answers import Answer
    from .load import Segment

MAX_P99_MS, MAX_MS, MIN_SUCCESS = 5.0, 50.0, 0.995
SECONDS = 10.0
GAVE_UP = 1
"""The exit code of a service that cannot continue."""


@dataclass(frozen=True)
class Options:
    """The amounts of a run."""

    rate: float
    seconds: float | None
    """The duration of a row's load; None for SECONDS, or its kind's."""
    share: float
    settle_s: float

    def segment(self, kind: str, executor: str) -> Segment:
        """Return the queries of a row."""
        own = KINDS[kind].seconds if executor == "thread" else None
        return segment(kind, size=int(self.rate * (self.seconds or own or SECONDS)), share=self.share)


@dataclass(frozen=True)
class Row:
    """The results of all queries of one load."""

    kind: str
    executor: str
    broker: str
    queries: int
    missing: int
    wrong: int
    """Answers of another query."""
    again: int
    """Answers beyond the first of their query, after a restart."""
    left_out: int
    """Queries in flight during a restart, whose success and lateness do not count."""
    late_p99_ms: float
    late_max_ms: float
    record_late_p99_ms: float
    record_late_max_ms: float
    normal_success: float
    normal_ended_as: dict[str, int]
    normal_age_p99_ms: float | None
    ordinary_success: float | None
    """Of the node's own queries that are not slow; None where the node is hostile."""
    hostile_ended_as: dict[str, int]
    slow_ended_as: dict[str, int]
    """The slow ones among them."""
    rebalances: float | None
    restarts: int
    exit_codes: list[int | None]
    replaced: float | None
    abandoned: float

    @property
    def exit_code(self) -> int | None:
        """Return the exit code of the last run of the service."""
        return self.exit_codes[-1]

    @property
    def failed_bars(self) -> list[str]:
        """Return the missed bars."""
        bars = {
            "missing": self.missing == 0,
            "wrong": self.wrong == 0,
            "p99": max(self.late_p99_ms, self.record_late_p99_ms) <= MAX_P99_MS,
            "max": max(self.late_max_ms, self.record_late_max_ms) <= MAX_MS,
            "normal": self.normal_success >= MIN_SUCCESS,
            "ordinary": self.ordinary_success is None or self.ordinary_success >= MIN_SUCCESS,
            "replaced": self.ordinary_success is None or not self.replaced,
            "group": self.rebalances == 1 and self._ended_as_expected,
        }
        return [name for name, kept in bars.items() if not kept]

    @property
    def _ended_as_expected(self) -> bool:
        if KINDS[self.kind].burns and self.executor == "thread":
            return self.restarts > 0 and set(self.exit_codes[:-1]) == {GAVE_UP}
        return self.restarts == 0

    @property
    def verdict(self) -> str:
        """For the table."""
        return "FAIL " + " ".join(self.failed_bars) if self.failed_bars else "ok"

    @property
    def log(self) -> str:
        """For the terminal, while the next row runs."""
        return f"missing {self.missing}, normal {self.normal_ended_as}, its own {self.hostile_ended_as}"


async def run(kind: str, executor: str, kafka: str | None, options: Options) -> Row:
    """Measure one row.

    Raises:
        RuntimeError: the service does not start with this executor, or does not use it.
    """
    queries = options.segment(kind, executor)
    observed = await observe(
        "hostile_app:app",
        {"executor.kind": executor},
        queries,
        rate=options.rate,
        settle_s=options.settle_s,
        kafka=kafka,
    )
    return judge(kind, executor, "embedded" if kafka is None else "kafka", queries, observed)


def judge(kind: str, executor: str, broker: str, queries: Segment, observed: Observed) -> Row:
    """Build the row of what was observed."""
    asked, first, supervisor = observed.asked, observed.first, observed.supervisor
    left_out = observed.left_out()
    counted = asked.keys() - left_out
    calls = calls_of(queries)
    slow = KINDS[kind].slow(calls, asked)
    own, normal = counted & calls.keys(), counted - calls.keys()
    answers = [first[name] for name in counted if name in first]
    late = _late((one.finished_ms, one.ends_ms) for one in answers)
    record_late = _late((one.created_ms, one.ends_ms) for one in answers)
    ages = [float(first[name].created_ms - asked[name]) for name in normal if name in first]
    return Row(
        kind=kind,
        executor=executor,
        broker=broker,
        queries=queries.size,
        missing=queries.size - len(first),
        wrong=sum(one.good and one.answer != one.query_id for one in first.values()),
        again=observed.again,
        left_out=len(left_out),
        late_p99_ms=late[0],
        late_max_ms=late[1],
        record_late_p99_ms=record_late[0],
        record_late_max_ms=record_late[1],
        normal_success=_success(normal, first),
        normal_ended_as=_ended_as(normal, first),
        normal_age_p99_ms=percentile(ages, 0.99),
        ordinary_success=_success(own - slow, first) if KINDS[kind].ordinary else None,
        hostile_ended_as=_ended_as(calls.keys() - slow, first),
        slow_ended_as=_ended_as(slow, first),
        rebalances=supervisor.highest(REBALANCES),
        restarts=supervisor.restarts,
        exit_codes=[life.exit_code for life in supervisor.lives],
        replaced=supervisor.summed(REPLACED),
        abandoned=supervisor.peak(ABANDONED),
    )


def _success(names: Collection[str], first: dict[str, Answer]) -> float:
    """Return the share of these queries that were answered in time; 1 of none."""
    good = sum(name in first and first[name].status == SUCCESS for name in names)
    return good / len(names) if names else 1.0


def _ended_as(names: Iterable[str], first: dict[str, Answer]) -> dict[str, int]:
    return dict(Counter(first[name].ended_as for name in names if name in first).most_common())


def _late(times: Iterable[tuple[float | None, float | None]]) -> tuple[float, float]:
    """Return how far ends are behind deadlines: 99 of 100, and all."""
    late = [max(0.0, end - deadline) for end, deadline in times if end is not None and deadline is not None]
    return percentile(late, 0.99) or 0.0, max(late, default=0.0)
