"""The app against a tariff service on this machine, which answers, fails, and is slow."""

import asyncio

import pytest
from aiohttp import web
from app import app

from fivestage import Orchestrator, Plan, StageType

PLAN = Plan.of(total_timeout_ms=20_000, stage_timeouts_ms=dict.fromkeys(StageType, 4000))
"""Limits that hold on a busy machine, too."""


@pytest.fixture
async def service():
    """A tariff service; ``service["how"]`` says what it does."""
    state = {"how": "answers", "requests": 0}

    async def price(request):
        state["requests"] += 1
        if state["how"] == "is slow":
            await asyncio.Event().wait()
        if state["how"] == "fails":
            raise web.HTTPInternalServerError
        if request.query["zone"] == "moon":
            raise web.HTTPNotFound
        return web.json_response({"price": 12.34})

    server = web.Application()
    server.router.add_get("/price", price)
    runner = web.AppRunner(server, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    state["url"] = f"http://127.0.0.1:{runner.addresses[0][1]}/price"
    yield state
    await runner.cleanup()


async def ask(question, url, timeout_ms=4000):
    nodes = {"tariffs": {"url": url, "timeout_ms": timeout_ms}}
    async with Orchestrator(app, plan=PLAN, nodes=nodes) as orchestrator:
        return await orchestrator.process_query(question)


async def test_the_exact_price(service):
    result = await ask("2.5 kg to Europe", service["url"])
    assert (result.status, result.answer, result.confidence) == ("success", 12.34, 1.0)


@pytest.mark.parametrize("how", ["fails", "is slow"])
async def test_the_table_answers_instead(service, how):
    service["how"] = how
    result = await ask("2.5 kg to Europe", service["url"], timeout_ms=50)
    assert (result.status, result.answer, result.confidence) == ("success", 12.75, 0.6)


async def test_a_service_that_is_not_there():
    result = await ask("10 kg to world", "http://127.0.0.1:9/")
    assert result.answer == 56.0


async def test_a_zone_that_is_none(service):
    result = await ask("1 kg to moon", service["url"])
    assert result.error_type == "Unanswerable"
    assert service["requests"] == 1


async def test_other_questions(service):
    assert "2.5 kg" in (await ask("how much?", service["url"])).answer
