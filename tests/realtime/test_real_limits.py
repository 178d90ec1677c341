"""The limits of a service, 250 ms and 50/100/120/40/30 ms, kept by each kind of executor.

A busy machine may cost any one query its answer, or end it in an earlier stage. So several are asked
together, all must end as the contract says, and the fastest of them shows what the limits were.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from fivestage.core.records import Output
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus
from fivestage_schemas import StageType, TimeoutReason
from support import contract_app
from support.contract_app import GATE
from support.jobs import LIMIT_S, until
from support.kinds import Place, all_ready
from virtual.samples import ends, outcomes, query, stage, statuses, timeouts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from fivestage_schemas import PipelineResult

pytestmark = pytest.mark.realtime
SETTINGS = Settings()
TOTAL_MS = 250.0
LIMITS_MS = [50.0, 100.0, 120.0, 40.0, 30.0]
LATE_MS = 5 * TOTAL_MS
"""The fastest of some answers is never later than this, unless nothing ends it at its limit."""
COUNT = 4
"""One fewer lost calls than suspend a node would do, but that takes a second."""
ROUNDS = 4
"""On a busy machine; one more would be enough calls to open the breaker."""
KINDS = ("inline", "thread", "process")
HANGING = ("waits", "ignores", "blocks-def", "blocks")


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Start an executor of each kind."""
    return Place(contract_app, request.param, tmp_path, monkeypatch)


@contextlib.asynccontextmanager
async def serving(place: Place) -> AsyncIterator[MemoryBus]:
    """Start a bus with the default settings."""
    stall_s = SETTINGS.executor.stall_ms / 1000
    executor = place.executor(SETTINGS.pipeline.plan(), stall_s=stall_s)
    async with MemoryBus(contract_app.make(place.folder), settings=SETTINGS, executor=executor) as bus:
        await all_ready(executor)
        yield bus


async def answered(bus: MemoryBus, text: str = "echo") -> PipelineResult:
    """Return the first answer that a busy machine lets be in time."""
    async with asyncio.timeout(LIMIT_S):
        while (result := await bus.ask(text)).status != "success" or result.degraded != (text != "echo"):
            pass
    return result


def times_of(results: Sequence[PipelineResult]) -> list[float]:
    """Return the durations of the queries, the fastest first."""
    return sorted(result.metrics.total_duration_ms for result in results)


async def test_limits_of_an_answer(place: Place) -> None:
    """Each stage gets its own limit, and the query its whole budget."""
    async with serving(place) as bus:
        for _ in range(ROUNDS):  # a first stage delayed by a busy machine leaves less to the others
            result = await answered(bus)
            if [one.timeout_ms for one in result.stages] == pytest.approx(LIMITS_MS):
                break
    assert [one.timeout_ms for one in result.stages] == pytest.approx(LIMITS_MS)
    assert result.metrics.budget_ms == pytest.approx(TOTAL_MS)
    assert result.metrics.within_budget


@pytest.mark.fault(15, 17)
@pytest.mark.parametrize(
    ("place", "node"),
    [(kind, node) for kind in KINDS for node in HANGING if (kind, node) != ("inline", "blocks")],
    indirect=["place"],
)
async def test_a_node_that_does_not_end(place: Place, node: str) -> None:
    """Its query ends once, at the stage's limit; then the bus is idle and answers as before."""
    shown: list[PipelineResult] = []
    async with serving(place) as bus:
        for number in range(ROUNDS):
            with place.gate(GATE).closed() as gate:
                hung = await all_hung(bus, node, number)
                gate.open()
            await until(lambda: not bus.executor.abandoned(), "nothing runs on")
            if shown := [one for one in hung if is_cut_by_its_stage(bus, one)]:
                break
        await answered(bus)
    assert set(ends(bus).values()) == {1}
    assert len(bus.sink.of(Output.STAGE_RESULTS)) == 5 * len(bus.results())
    granted_ms = min(stage(one, StageType.PROCESSING).timeout_ms for one in shown)
    assert LIMITS_MS[2] - 0.1 <= granted_ms < TOTAL_MS  # more, where other code blocked the loop
    assert LIMITS_MS[2] <= times_of(shown)[0] <= LATE_MS


async def all_hung(bus: MemoryBus, node: str, number: int) -> list[PipelineResult]:
    """Query a hanging node several times concurrently; each is a timeout with its event."""
    ids = [f"hangs-{number}-{place}" for place in range(COUNT)]
    for query_id in ids:
        bus.put(query(query_id, node))
    await until(lambda: all(bus.result(query_id) for query_id in ids), "all have ended")
    hung = [result for result in bus.results() if result.query_id in ids]
    assert Counter(str(result.status) for result in hung) == {"timeout": COUNT}
    assert set(ids) <= {event.query_id for event in timeouts(bus)}
    return hung


def is_cut_by_its_stage(bus: MemoryBus, result: PipelineResult) -> bool:
    """Return whether the node was called in time to reach the stage's limit, not the query's."""
    [event] = [event for event in timeouts(bus) if event.query_id == result.query_id]
    if event.scope != "stage" or event.stage_type != "processing":
        return False
    assert event.reason is TimeoutReason.STAGE_TIMEOUT
    assert outcomes(result) == ["success", "success", "timeout", "skipped", "skipped"]
    return stage(result, StageType.PROCESSING).timeout_ms >= LIMITS_MS[2] - 0.1


async def test_a_validation_that_does_not_end(place: Place) -> None:
    """The degraded answer is published at the limit of the validation."""
    async with serving(place) as bus:
        result = await answered(bus, "echo doubtful")
    assert outcomes(result) in (
        ["success", "success", "success", "timeout", "success"],
        ["success", "success", "success", "timeout", "skipped"],
    )
    assert stage(result, StageType.VALIDATION).timeout_ms >= LIMITS_MS[3]
    assert result.answer == "echo doubtful"


async def test_a_deadline_of_the_querys_own(place: Place) -> None:
    """A budget below a stage's limit ends the query as the pipeline's timeout."""
    async with serving(place) as bus:
        hung = [await bus.ask("waits", query_id=f"q{number}", budget_ms=60) for number in range(COUNT)]
    assert statuses(bus) == {"timeout": COUNT}
    assert 60 <= times_of(hung)[0] <= LATE_MS
    assert {event.scope for event in timeouts(bus)} <= {"pipeline", "stage"}
    assert all(one.timeout_ms <= 60 + 0.1 for result in hung for one in result.stages)
