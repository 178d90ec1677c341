"""Offered answers reach the bus loop from every executor, whatever the node does after them."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from fivestage import StageContext
from fivestage.executors.process import messages
from fivestage.executors.process.frames import Decoder
from fivestage.executors.process.offer_sender import INTERVAL_S, OfferSender
from fivestage.settings import Settings
from fivestage.testing import MemoryBus
from fivestage_schemas import PipelineStatus, StageType
from support import offer_app
from support.jobs import until
from support.kinds import Place, all_ready

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.realtime
OK, FAILED, LATE = PipelineStatus.SUCCESS, PipelineStatus.ERROR, PipelineStatus.TIMEOUT
LONG_MS = 60_000
LIMIT_MS = 1000
"""The limit of processing: enough for a node on a busy machine to make its offers."""
STALL_S = 0.1
LAST = (offer_app.LAST, 0.3)


@pytest.fixture(params=["inline", "thread", "process"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Return the app in an executor of each kind."""
    return Place(offer_app, request.param, tmp_path, monkeypatch)


@contextlib.asynccontextmanager
async def serving(place: Place) -> AsyncIterator[MemoryBus]:
    """Run the app with long limits, except for processing; the gate is closed."""
    limits = dict.fromkeys(StageType, LONG_MS) | {StageType.PROCESSING: LIMIT_MS}
    pipeline = {"total_timeout_ms": LONG_MS, "stage_timeouts_ms": limits}
    settings = Settings.model_validate({"pipeline": pipeline, "adaptive": {"enabled": False}})
    executor = place.executor(settings.pipeline.plan(), stall_s=STALL_S)
    with place.gate(offer_app.BLOCKED).closed() as gate:
        app = offer_app.make(place.folder)
        async with MemoryBus(app, settings=settings, executor=executor) as bus:
            await all_ready(executor)
            yield bus
            gate.open()


@pytest.mark.parametrize("node", ["waits", "blocks in a thread", "blocks"])
async def test_the_last_offer_of_a_node_that_does_not_end(place: Place, node: str) -> None:
    """It is the answer of the query, and what validation sees if the query allows partial answers."""
    if (place.kind, node) == ("inline", "blocks"):
        pytest.skip("a node that blocks the bus loop blocks everything")
    async with serving(place) as bus:
        result = await bus.ask(node, allow_partial=True)
        assert (result.status, result.partial, result.node) == (OK, True, node)
        assert (result.answer, result.confidence) == LAST
        assert (result.stages[2].outcome, result.validated) == ("timeout", True)
        late = await bus.ask(node)
        assert (late.status, late.partial, late.answer, late.confidence) == (LATE, True, *LAST)
    assert set(place.notes()) == {f"{node}: True {offer_app.LAST} 0.3 {node}"}


async def test_an_exception_discards_offers(place: Place) -> None:
    """Nothing offered is in the result, from any executor."""
    async with serving(place) as bus:
        result = await bus.ask("raises", allow_partial=True)
        assert (result.status, result.error_type) == (FAILED, "LookupError")
        assert (result.answer, result.confidence, result.partial) == (None, None, False)


async def test_an_exception_may_keep_offers(place: Place) -> None:
    """The last offer before one with ``keeps_offer`` is in the result, from any executor."""
    async with serving(place) as bus:
        result = await bus.ask("breaks off", allow_partial=True)
        assert (result.status, result.partial, result.validated) == (OK, True, True)
        assert (result.answer, result.confidence) == LAST
        failed = await bus.ask("breaks off")
        assert (failed.status, failed.error_type, failed.partial) == (FAILED, "BrokenOffError", True)
        assert (failed.answer, failed.confidence) == LAST


@pytest.mark.parametrize("place", ["process"], indirect=True)
async def test_an_offer_outlives_its_process(place: Place) -> None:
    """A node that ends its worker process leaves what it offered: to later stages, or to the error."""
    async with serving(place) as bus:
        result = await bus.ask("dies", allow_partial=True)
        assert (result.status, result.partial, result.validated) == (OK, True, True)
        assert (result.answer, result.confidence) == LAST
        assert (result.stages[2].outcome, result.stages[2].error_type) == ("error", "worker_died")
        failed = await bus.ask("dies")
        assert (failed.status, failed.error_type, failed.partial) == (FAILED, "worker_died", True)
        assert (failed.answer, failed.confidence) == LAST


class Written:
    """Records writes instead of making them."""

    is_in_copy = False

    def __init__(self) -> None:
        self.sender: Any = None
        self.times: list[tuple[float, float]] = []
        """When each write was made, and from when on the next one may be made."""
        self.last: dict[int, Any] = {}
        """The last offer of each history."""

    def write(self, data: bytes) -> None:
        self.times.append((time.monotonic(), self.sender._next_at))
        for frame in Decoder().feed(data):
            self.last[frame.serial] = messages.decode_offer(frame)[1].answer_json


def test_offers_are_written_at_most_every_5_ms() -> None:
    """However many threads offer: each write keeps its distance, and the last offer of each arrives."""
    written = Written()
    written.sender = sender = OfferSender(written)  # type: ignore[arg-type]

    def stream(serial: int) -> None:
        ctx = StageContext("prod", 1e9, time.monotonic, StageType.PROCESSING, node="llm")
        for number in range(500):
            ctx.offer(number)
            sender.put(serial, ctx)

    threads = [threading.Thread(target=stream, args=(serial,)) for serial in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ends_at = time.monotonic() + 30
    while written.last != dict.fromkeys(range(4), b"499") and time.monotonic() < ends_at:
        time.sleep(INTERVAL_S)
    assert written.last == dict.fromkeys(range(4), b"499")
    assert all(at >= next_at for (_, next_at), (at, _) in zip(written.times, written.times[1:], strict=False))


async def test_offers_of_calls_that_are_not_waited_for_have_no_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that offers after its query has ended does not disturb its worker process."""
    place = Place(offer_app, "process", tmp_path, monkeypatch)
    async with serving(place) as bus:
        assert (await bus.ask("blocks in a thread")).partial
        await until(bus.executor.abandoned, "the call is abandoned")
    assert place.observer.reasons == []
