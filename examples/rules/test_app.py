"""The app against a tariff service on this machine, which answers, fails, and is slow."""

import asyncio

import pytest
from aiohttp import web
from app import app

from fivestage import Orchestrator


@pytest.fixture
async def service():
    """A tariff service; ``service["how"]`` says what it does."""
    state = {"how": "answers", "requests": 0}

    async def price(request):
        state["requests"] += 1
        if state["how"] == "is slow":
            await asyncio.sleep(5)
        if state["how"] == "fails":
            raise web.HTTPInternalServerError
        if request.query["zone"] == "moon":
            raise web.HTTPNotFound
        return web.json_response({"price": 12.34})

    server = web.Application()
    server.router.add_get("/price", price)
    runner = web.AppRunner(server, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    state["url"] = f"http://127.0.0.1:{runner.addresses[0][1]}/price"
    yield state
    await runner.cleanup()


async def ask(service, question):
    async with Orchestrator(app, nodes={"tariffs": {"url": service["url"]}}) as orchestrator:
        return await orchestrator.process_query(question)


async def test_the_exact_price(service):
    result = await ask(service, "2.5 kg to Europe")
    assert (result.status, result.answer, result.confidence) == ("success", 12.34, 1.0)


@pytest.mark.parametrize("how", ["fails", "is slow"])
async def test_the_table_answers_instead(service, how):
    service["how"] = how
    result = await ask(service, "2.5 kg to Europe")
    assert (result.status, result.answer, result.confidence) == ("success", 12.75, 0.6)


async def test_a_service_that_is_not_there(service):
    async with Orchestrator(app, nodes={"tariffs": {"url": "http://127.0.0.1:9/"}}) as orchestrator:
        result = await orchestrator.process_query("10 kg to world")
    assert result.answer == 56.0


async def test_a_zone_that_is_none(service):
    result = await ask(service, "1 kg to moon")
    assert result.error_type == "Unanswerable"
    assert service["requests"] == 1


async def test_other_questions(service):
    assert "2.5 kg" in (await ask(service, "how much?")).answer
