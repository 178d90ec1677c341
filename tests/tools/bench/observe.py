"""One load on a supervised service: queries and answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from .answers import Answer, asked_ms, collect, first_answers
from .children import Service
from .load import Load, Segment, offer
from .place import place
from .supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Mapping

PARTITIONS = 8
REBALANCES = "fivestage_rebalances_total"
REPLACED = "fivestage_replaced_executors_total"
STALLED = "fivestage_blocked_event_loops_total"
ABANDONED = "fivestage_abandoned_tasks"


class Observed(NamedTuple):
    """The observations of a run."""

    asked: dict[str, int]
    """When each query was asked (epoch milliseconds), by its id."""
    first: dict[str, Answer]
    """The first answer of each query that has one."""
    again: int
    """Answers beyond the first of their query, after a restart."""
    supervisor: Supervisor

    def left_out(self) -> set[str]:
        """Return the ids of queries asked without a service, or in flight when one ended."""
        found = set()
        for from_ms, until_ms in self.supervisor.outages_ms:
            found |= {name for name, at_ms in self.asked.items() if from_ms <= at_ms <= until_ms}
            found |= {name for name, one in self.first.items() if _in_flight(one, from_ms)}
        return found


def _in_flight(answer: Answer, at_ms: float) -> bool:
    return answer.started_ms is not None and answer.started_ms <= at_ms <= answer.created_ms


async def observe(
    app: str,
    settings: Mapping[str, object],
    segment: Segment,
    *,
    rate: float,
    settle_s: float,
    kafka: str | None = None,
) -> Observed:
    """Run an app of this folder, under a supervisor, and offer it queries.

    Args:
        app: ``MODULE:APP``.
        settings: By their dotted key, with the executor's kind.
        segment: The queries.
        rate: How many of them a second.
        settle_s: How long to wait for the last answers.
        kafka: A real broker's ``host:port``; otherwise an embedded one.

    Raises:
        RuntimeError: the service does not start with this executor, or does not use it.
    """
    async with place(kafka, PARTITIONS) as here:
        given = {**here.settings, "tracing.sample_ratio": 0, **settings}
        with_workers = settings["executor.kind"] == "process"
        supervisor = Supervisor(lambda: Service(app, given), (ABANDONED,), with_workers=with_workers)
        async with supervisor:
            limit_s = segment.size / rate + settle_s
            reading = asyncio.create_task(collect(here.bootstrap, here.topics.results, segment.size, limit_s))
            await offer(Load(here.bootstrap, here.topics.queries, rate, [segment]))
            answers = await reading
        asked = await asyncio.to_thread(asked_ms, here.bootstrap, here.topics.queries)
    first = first_answers(answers)
    return Observed(asked, first, len(answers) - len(first), supervisor)
