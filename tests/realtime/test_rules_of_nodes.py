"""Limits, timeouts and retries of nodes are the same in every executor."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from fivestage import Orchestrator, Pipeline, Plan, Query
from fivestage.core.attempts import kind_of
from fivestage.core.job import Job
from fivestage_schemas import AttemptKind, Outcome, StageType
from support import kinds, ruled_app
from support.documents import blocks, section, text_of
from support.jobs import Bus, answer_of, node_run, until
from support.kinds import LONG_S
from support.ruled_app import GATE, LEFT_S

if TYPE_CHECKING:
    from pathlib import Path

    from fivestage import StageContext

pytestmark = pytest.mark.realtime
PLAN = Plan.of(total_timeout_ms=LONG_S * 1000, stage_timeouts_ms=dict.fromkeys(StageType, LONG_S * 1000))
"""Long enough that the test decides what ends when."""
KINDS = ("inline", "thread", "process")
SOON_S = 0.3
"""For wanted stalls; with less, a busy machine causes false ones."""


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> kinds.Place:
    """Make an executor of each kind."""
    return kinds.Place(ruled_app, request.param, tmp_path, monkeypatch)


async def decided(bus: Bus, job: Job) -> None:
    """Wait until a query is at its node, and the executor has done other work since."""
    await until(lambda: len(job.history.runs) == 2)
    await bus.ask("quick")


@pytest.mark.parametrize("node", ["waits", "function", "in-thread", "to-thread"])
async def test_calls_beyond_the_limit_wait(node: str, place: kinds.Place) -> None:
    """One call after the other, whether it runs on the loop or in threads; none is lost."""
    async with place.running(PLAN) as bus:
        with place.gate(GATE).closed() as gate:
            first = bus.submit(f"{node} a")
            await place.noted("in a")
            others = [bus.submit(f"{node} {name}") for name in ("b", "c")]
            for job in others:
                await decided(bus, job)
            assert place.notes() == ["in a"]
            gate.open()
            await bus.ended(first, *others)
    assert [answer_of(job) for job in (first, *others)] == [b'"a"', b'"b"', b'"c"']
    assert place.notes() == ["in a", "out a", "in b", "out b", "in c", "out c"]
    assert node_run(others[1]).waited_s > 0


@pytest.mark.parametrize("node", ["function", "in-thread", "to-thread"])
async def test_code_that_runs_on_in_a_thread_keeps_its_slot(node: str, place: kinds.Place) -> None:
    """The query is over, its function is not: the next call waits for that."""
    if (node, place.kind) == ("to-thread", "inline"):
        pytest.skip("the loop of the test has its own threads")
    async with place.running(PLAN) as bus:
        with place.gate(GATE).closed() as gate:
            late = bus.submit(f"{node} a")
            await place.noted("in a")
            bus.give_up(late)
            waiting = bus.submit(f"{node} b")
            await decided(bus, waiting)
            assert place.notes() == ["in a"]
            gate.open()
            await bus.ended(waiting)
    assert place.notes() == ["in a", "out a", "in b", "out b"]


async def test_a_call_that_waits_is_given_up_without_a_trace(place: kinds.Place) -> None:
    """Its node is not called, and the next one gets the slot."""
    async with place.running(PLAN) as bus:
        with place.gate(GATE).closed() as gate:
            first = bus.submit("waits a")
            await place.noted("in a")
            given_up, waiting = bus.submit("waits b"), bus.submit("waits c")
            await decided(bus, given_up)
            bus.give_up(given_up)
            await decided(bus, waiting)
            gate.open()
            await bus.ended(first, waiting)
    assert place.notes() == ["in a", "out a", "in c", "out c"]


async def test_a_query_without_time_to_wait_does_not_wait(place: kinds.Place) -> None:
    """It ends as an error of the node that it did not get."""
    async with place.running(PLAN) as bus:
        with place.gate(GATE).closed() as gate:
            first = bus.submit("waits a")
            await place.noted("in a")
            now = asyncio.get_running_loop().time()
            hurried = Job(Query("q", "waits b"), PLAN, started_at=now, ends_at=now + LONG_S / 3)
            bus.executor.submit(hurried)
            await bus.ended(hurried)
            gate.open()
            await bus.ended(first)
    (run,) = hurried.history.superseded
    assert (run.error_type, run.node, run.started_at) == ("node_busy", "waits", None)


@pytest.mark.parametrize("node", ["refused", "refused-function"])
async def test_a_retry_is_a_second_call_of_the_same_node(node: str, place: kinds.Place) -> None:
    """On the loop and in threads."""
    async with place.running(PLAN) as bus:
        job = await bus.ask(node)
    assert answer_of(job) == b"2"
    (before,) = job.history.superseded
    assert (before.error_type, before.node) == ("ConnectionRefusedError", node)
    assert kind_of(node_run(job), before) is AttemptKind.RETRY


async def test_a_node_is_cut_at_its_own_timeout(place: kinds.Place) -> None:
    """Another one answers, and the timeout counts against the first."""
    limits = dict.fromkeys(StageType, LONG_S * 1000 / 4)
    async with place.running(Plan.of(total_timeout_ms=LONG_S * 1000, stage_timeouts_ms=limits)) as bus:
        job = await bus.ask("slow")
    assert answer_of(job) == b'"quick"'
    (before,) = job.history.superseded
    assert (before.outcome, before.node) == (Outcome.TIMEOUT, "slow")
    assert 0.05 <= before.granted_s < LONG_S / 4  # extended where the machine was busy
    assert before.capped


async def test_a_function_that_waited_for_a_thread_has_its_own_timeout(place: kinds.Place) -> None:
    """What it reads when a thread takes it is not what the stage would grant."""
    async with place.running(PLAN, threads=1) as bus:
        with place.gate(GATE).closed() as gate:
            first = bus.submit("function a")
            await place.noted("in a")
            waiting = bus.submit("left")
            await until(lambda: waiting.history.waiting is not None)
            gate.open()
            await bus.ended(first, waiting)
    assert 0 < float(answer_of(waiting) or b"0") < LEFT_S
    assert node_run(waiting).capped


async def test_a_blocked_loop_takes_no_slot_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is of all loops of a process; the slot of the call that blocks is the only one missing."""
    place = kinds.Place(ruled_app, "thread", tmp_path, monkeypatch)
    async with place.running(PLAN, stall_s=SOON_S) as bus:
        with place.gate(GATE).closed() as gate:
            blocking = bus.submit("blocks the-loop")
            await place.noted("in the-loop")
            await until(lambda: place.observer.stalled)
            others = [bus.submit(f"blocks {number}") for number in range(4)]
            await bus.ended(*others)
            gate.open()
            await bus.ended(blocking)
    assert place.notes() == [
        "in the-loop",
        *[f"{way} {number}" for number in range(4) for way in ("in", "out")],
        "out the-loop",
    ]


def example(address: str) -> Pipeline:
    """Run the code of the document, with another address, and let each query be a question."""
    (source,) = blocks("python", section("Limits and retries", text_of("docs/authors.md")))
    assert "http://llm.example" in source
    written: dict[str, Any] = {}
    exec(source.replace("http://llm.example", address), written)  # noqa: S102 - the document's own code
    app: Pipeline = written["app"]

    @app.intent
    async def intent(_query: Query, _ctx: StageContext) -> str:
        return "question"

    node = app.nodes["llm"]
    assert node.rules is not None
    # Without its timeout of 80 ms, which a busy machine would exceed.
    app._nodes["llm"] = replace(node, rules=replace(node.rules, timeout_s=LONG_S))
    return app


async def test_the_example_of_the_document() -> None:
    """Its node makes eight calls at a time, and calls a service that refuses connections again."""
    calls: Counter[str] = Counter()

    async def answer(request: web.Request) -> web.Response:
        calls["running"] += 1
        calls["highest"] = max(calls["highest"], calls["running"])
        while calls["waiting"] < 10:  # until all but the last have been asked
            await asyncio.sleep(0.002)
        calls["running"] -= 1
        return web.json_response({"answer": (await request.json())["text"], "confidence": 1.0})

    plan = Plan.of(total_timeout_ms=LONG_S * 1000, stage_timeouts_ms=dict.fromkeys(StageType, LONG_S * 1000))
    web_app = web.Application()
    web_app.router.add_post("/answer", answer)
    async with TestServer(web_app) as server:
        app = example(str(server.make_url("")))
        async with Orchestrator(app, plan=plan) as orchestrator:
            queries = [asyncio.ensure_future(orchestrator.process_query(f"q{n}")) for n in range(10)]
            await until(lambda: calls["running"] == 8)
            calls["waiting"] = 10
            results = await asyncio.gather(*queries)
    assert [result.answer for result in results] == [f"q{n}" for n in range(10)]
    assert calls["highest"] == 8
    async with Orchestrator(app, plan=plan) as orchestrator:  # the server is gone
        result = await orchestrator.process_query("is anyone there?")
    assert result.error_type == "ClientConnectorError"
    assert [str(one.kind) for one in result.stages[2].attempts] == ["first", "retry"]
