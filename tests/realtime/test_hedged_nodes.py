"""Hedges on real loops, in threads and in worker processes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from fivestage import Pipeline, Plan, Query
from fivestage.core.routing_snapshot import NodeRouting, RoutingSnapshot
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus
from fivestage_schemas import Outcome, StageType
from support import kinds, ruled_app
from support.documents import blocks, section, text_of
from support.jobs import answer_of, node_run, until
from support.kinds import LONG_S

if TYPE_CHECKING:
    from pathlib import Path

    from fivestage import StageContext

LIMITS = dict.fromkeys(StageType, LONG_S * 1000)
PLAN = Plan.of(total_timeout_ms=LONG_S * 1000, stage_timeouts_ms=LIMITS)


@pytest.fixture(params=("inline", "thread", "process"))
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> kinds.Place:
    """Make an executor of each kind."""
    return kinds.Place(ruled_app, request.param, tmp_path, monkeypatch)


def known() -> RoutingSnapshot:
    """Return what is known of a node that is slow after 10 ms."""
    routing = RoutingSnapshot.neutral(PLAN)
    routing.nodes = {"hedged": NodeRouting(hedge_after_s=0.01)}
    routing.max_extra_load = 2.0  # so that the first call pays for a hedge
    return routing


async def test_the_first_answer_counts(place: kinds.Place) -> None:
    """The slow call is cancelled, what it offers then has no effect, and both calls are in the history."""
    async with place.running(PLAN) as bus:
        job = bus.submit("hedged", known())
        await bus.ended(job)
        await place.noted("cancelled")
        await bus.ask("quick")
    assert answer_of(job) == b'"twin 2"'
    (slow,) = job.history.superseded
    assert (slow.node, slow.outcome, slow.overtaken, slow.hedge) == ("hedged", Outcome.SKIPPED, True, False)
    assert (node_run(job).node, node_run(job).hedge, job.history.hedge) == ("twin", True, None)
    assert place.notes() == ["cancelled"]


async def test_what_both_calls_offer_reaches_the_service(place: kinds.Place) -> None:
    """Of a query that ends while both run the last attempt's offer counts."""
    async with place.running(PLAN) as bus:
        job = bus.submit("hedged both", known())
        await until(lambda: job.history.hedge is not None and job.history.hedge.offers is not None)
        await until(lambda: b"twin" in (getattr(job.history.last_offer(), "answer_json", b"")))
        first, second = job.history.running, job.history.hedge
        assert first is not None
        assert second is not None
        assert (first.node, second.node, second.attempt) == ("hedged", "twin", 2)
        bus.give_up(job)
        await place.noted("cancelled")
        await until(lambda: not bus.executor.abandoned())
        await bus.ask("quick")
    assert place.notes() == ["cancelled"]


def example(addresses: dict[str, str]) -> Pipeline:
    """Run the code of the document, with other addresses, and let each query be a question."""
    (source,) = blocks("python", section("Hedging", text_of("docs/authors.md")))
    written: dict[str, Any] = {"ADDRESSES": addresses}
    old = 'f"http://{name}.example/answer"'
    assert old in source
    exec(source.replace(old, "ADDRESSES[name]"), written)  # noqa: S102 - the document's own code
    app: Pipeline = written["app"]

    @app.intent
    async def intent(_query: Query, _ctx: StageContext) -> str:
        return "question"

    @app.decision
    async def decision(_query: Query, _ctx: StageContext) -> str:
        return "qa-a"

    return app


async def test_the_example_of_the_document() -> None:
    """One of two replicas stalls after a hundred answers; the other one answers the query."""
    ended = asyncio.Event()

    def server(name: str) -> TestServer:
        async def answer(request: web.Request) -> web.Response:
            if (await request.json())["text"] == "slow" and name == "qa-a":
                await ended.wait()
            return web.json_response({"answer": name, "confidence": 1.0})

        made = web.Application()
        made.router.add_post("/answer", answer)
        return TestServer(made)

    (toml,) = blocks("toml", section("Hedging", text_of("docs/authors.md")))
    assert "max_extra_load = 0.05" in toml
    pipeline = {"total_timeout_ms": LONG_S * 1000, "stage_timeouts_ms": {**LIMITS}}
    settings = Settings.model_validate({"hedge": {"max_extra_load": 0.05}, "pipeline": pipeline})
    async with server("qa-a") as a, server("qa-b") as b:
        app = example({"qa-a": str(a.make_url("/answer")), "qa-b": str(b.make_url("/answer"))})
        async with MemoryBus(app, settings=settings) as bus:
            for number in range(10):
                await asyncio.gather(*(bus.ask("usual", query_id=f"{number}-{n}") for n in range(10)))
            bus.dispatcher.learned.lane("prod").refresh(asyncio.get_running_loop().time())
            result = await bus.ask("slow")
        ended.set()
    kinds_of = [(one.node, str(one.kind), str(one.outcome)) for one in result.stages[2].attempts]
    assert (result.answer, kinds_of) == (
        "qa-b",
        [("qa-a", "first", "skipped"), ("qa-b", "hedge", "success")],
    )
