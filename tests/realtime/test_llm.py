"""The node that asks a language model, against a real server on this machine."""

from __future__ import annotations

import asyncio
import tomllib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from pydantic import SecretStr

from fivestage import Orchestrator, Pipeline, Query, StageContext
from fivestage.errors import Unanswerable
from fivestage.nodes.llm import (
    ChatClient,
    ChatModel,
    ModelBusyError,
    ModelError,
    ModelUnavailableError,
    add_llm_node,
)
from fivestage.nodes.llm.stream import wait_of
from fivestage.settings import Settings
from fivestage_schemas import Outcome, PipelineResult, PipelineStatus, StageType
from support.chat_server import ChatServer
from support.documents import blocks, section, text_of
from support.jobs import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIMIT_S = 20.0


@pytest.fixture
async def server() -> AsyncIterator[ChatServer]:
    """Start a server."""
    async with ChatServer() as server:
        yield server


@pytest.fixture
async def client(server: ChatServer) -> AsyncIterator[ChatClient]:
    """Open a client of the server."""
    async with ChatModel(base_url=server.url, model="m", api_key=SecretStr("secret")).connect() as client:
        yield client


async def parts_of(client: ChatClient, question: str, timeout_s: float = LIMIT_S) -> list[str]:
    """Ask, and return the parts of the answer."""
    messages = [{"role": "user", "content": question}]
    return [part async for part in client.stream(messages, timeout_s=timeout_s)]


@pytest.mark.parametrize("how", ["say", "slowly", "whole"])
async def test_answers(client: ChatClient, server: ChatServer, how: str) -> None:
    """The parts of an answer are its text, streamed or not; the request is what the API describes."""
    assert "".join(await parts_of(client, f"{how} four and twenty")) == "four and twenty"
    [body], [headers] = server.requests, server.headers
    assert (body["model"], body["stream"]) == ("m", True)
    assert (headers["Authorization"], headers["Content-Type"]) == ("Bearer secret", "application/json")


@pytest.mark.parametrize(
    ("question", "error"),
    [
        ("status 500", ModelUnavailableError("the model's server answered with status 500 (server_error)")),
        ("status 429", ModelBusyError("the model's server answered with status 429 (server_error)")),
        ("status 401", ModelError("the model's server answered with status 401 (server_error)")),
        ("code Spaced-Out!", ModelError("the model's server answered with status 400")),
        ("code context_length_exceeded", Unanswerable("the question is longer than the model accepts")),
        ("filter some words", Unanswerable("the model's content filter ended the answer")),
        ("error some words", ModelUnavailableError("the model's server reports an error (overloaded)")),
        ("cut some words", ModelUnavailableError("the model's answer broke off")),
        ("ends some words", ModelUnavailableError("the model's answer broke off")),
        ("rubbish", ModelUnavailableError("the model's server did not send JSON")),
    ],
)
async def test_answers_that_fail(client: ChatClient, question: str, error: Exception) -> None:
    """Each failure has its class, and a text without anything of the question."""
    with pytest.raises(type(error)) as raised:
        await parts_of(client, question)
    assert (type(raised.value), str(raised.value)) == (type(error), str(error))


async def test_a_timeout(client: ChatClient, server: ChatServer) -> None:
    """The time is for all of the answer, and the connection is closed at its end."""
    with pytest.raises(TimeoutError):
        await parts_of(client, "stall some words", timeout_s=2)  # the server has it by then
    await until(server.cancelled.is_set, "the server's request is cancelled")


async def test_a_server_that_is_not_there() -> None:
    """The error is that of aiohttp for connections that were not made."""
    async with ChatModel(base_url="http://127.0.0.1:9/v1", model="m").connect() as client:
        with pytest.raises(aiohttp.ClientConnectionError):
            await parts_of(client, "say no")


def app_of(url: str, *, has_rules: bool = True, **options: Any) -> Pipeline:
    """An app with a node that asks the server, and one that is called when that fails."""
    app = Pipeline(builtins=False)

    @app.intent
    async def intent(_query: Query, _ctx: StageContext) -> dict[str, Any]:
        return {"intent": "question", "confidence": 1.0}

    @app.validation
    async def validation(_query: Query, ctx: StageContext) -> bool:
        return bool(ctx.answer)

    add_llm_node(app, "assistant", ChatModel(base_url=url, model="m"), intents={"question"}, **options)

    @app.node("rules", intents={"question" if has_rules else "other"})
    async def rules(_query: Query, _ctx: StageContext) -> dict[str, Any]:
        return {"answer": "by rule", "confidence": 0.1}

    return app


async def ask(
    app: Pipeline, question: str, processing_ms: float = LIMIT_S * 1000, **fields: Any
) -> PipelineResult:
    """Ask without Kafka."""
    limits = {**dict.fromkeys(StageType, LIMIT_S * 1000), StageType.PROCESSING: processing_ms}
    settings = Settings.load(
        None, {"pipeline": {"total_timeout_ms": 2 * LIMIT_S * 1000, "stage_timeouts_ms": limits}}
    )
    plan = settings.pipeline.plan()
    async with Orchestrator(app, plan=plan) as orchestrator:
        return await orchestrator.process_query(question, **fields)


async def test_the_node_answers(server: ChatServer) -> None:
    """The answer has the confidence of a complete one."""
    result = await ask(app_of(server.url, confidence=0.7), "say four and twenty")
    assert (result.status, result.answer, result.confidence) == ("success", "four and twenty", 0.7)


async def test_the_model_of_the_settings(server: ChatServer) -> None:
    """Without a model in the code, the node's settings name it."""
    app = Pipeline()
    add_llm_node(app, "assistant", intents={"general"})
    settings = {"base_url": server.url, "model": "m", "parameters": {"max_tokens": 9}}
    async with Orchestrator(app, nodes={"assistant": settings}) as orchestrator:
        await orchestrator.process_query("say yes")
    assert [(body["model"], body["max_tokens"]) for body in server.requests] == [("m", 9)]


async def test_the_printed_node(server: ChatServer) -> None:
    """The node and the settings of the document answer."""
    text = section("Ask a language model", text_of("docs/authors.md"))
    [code], [toml] = blocks("python", text), blocks("toml", text)
    namespace: dict[str, Any] = {}
    exec(code, namespace)  # noqa: S102 - the project's own document
    given = tomllib.loads(toml)
    settings = Settings.load(None, given)
    model = given["nodes"]["assistant"] | {"base_url": server.url}
    nodes = {"assistant": model}
    async with Orchestrator(namespace["app"], plan=settings.pipeline.plan(), nodes=nodes) as orchestrator:
        result = await orchestrator.process_query("say four and twenty")
    assert (result.node, result.answer) == ("assistant", "four and twenty")
    assert server.requests[0]["max_tokens"] == 60


async def test_a_server_that_fails_is_asked_again(server: ChatServer) -> None:
    """The second attempt is that of the same node."""
    result = await ask(app_of(server.url), "flaky four and twenty")
    assert (result.answer, len(server.requests)) == ("four and twenty", 2)


async def test_a_busy_server_is_asked_again_after_a_wait(server: ChatServer) -> None:
    """The wait is the one that it asks for, where no other node takes the intent."""
    result = await ask(app_of(server.url, has_rules=False), "busy four and twenty")
    [processing] = [stage for stage in result.stages if stage.stage_type is StageType.PROCESSING]
    assert (result.answer, len(server.requests)) == ("four and twenty", 2)
    assert processing.attempts[1].waited_ms >= 30


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, 0.0),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "2", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "2", "retry-after-ms": "soon"}, 2.0),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, 0.0),
        ({"retry-after": "-1"}, 0.0),
    ],
)
def test_the_wait_that_a_server_asks_for(headers: dict[str, str], wait_s: float) -> None:
    """In milliseconds, in seconds, or until a date; what cannot be read is no wait."""
    assert wait_of(headers) == wait_s


def test_the_wait_until_a_date() -> None:
    """A date in the future is as many seconds away."""
    then = datetime.now(UTC) + timedelta(hours=1)
    assert wait_of({"retry-after": format_datetime(then, usegmt=True)}) == pytest.approx(3600, abs=30)


@pytest.mark.parametrize(("question", "requests"), [("status 429", 1), ("status 503", 3)])
async def test_a_server_that_does_not_answer(server: ChatServer, question: str, requests: int) -> None:
    """Another node is called: at once if the server is busy, after the retry if it fails."""
    result = await ask(app_of(server.url), question)
    assert (result.answer, result.status, len(server.requests)) == ("by rule", "success", requests)


async def test_a_question_that_the_model_does_not_take(server: ChatServer) -> None:
    """No other node is asked, as it says something about the question."""
    result = await ask(app_of(server.url), "code context_length_exceeded")
    [processing] = [stage for stage in result.stages if stage.stage_type is StageType.PROCESSING]
    assert (processing.outcome, processing.error_type) == (Outcome.ERROR, "Unanswerable")


async def test_a_partial_answer(server: ChatServer) -> None:
    """What was streamed until the limit of the stage is the answer of the result that came too late."""
    result = await ask(app_of(server.url, has_rules=False), "stall four and twenty", processing_ms=1500)
    assert (result.status, result.partial, result.answer) == (
        PipelineStatus.TIMEOUT, True, "four and twenty",
    )  # fmt: skip
    await until(server.cancelled.is_set, "the server's request is cancelled")


async def test_an_answer_that_breaks_off_is_partial(server: ChatServer) -> None:
    """What has come of it counts where no attempt brings all of it."""
    app = app_of(server.url, has_rules=False, retries=0)
    result = await ask(app, "cut four and twenty", allow_partial=True)
    assert (result.status, result.partial, result.answer) == (
        PipelineStatus.SUCCESS, True, "four and twenty",
    )  # fmt: skip


class NoThreads(ThreadPoolExecutor):
    """Refuses all calls."""

    def submit(self, *_args: Any, **_kwargs: Any) -> Any:
        raise AssertionError("a thread is not needed")


async def test_a_request_needs_no_thread(client: ChatClient) -> None:
    """Threads may all be busy with other nodes."""
    asyncio.get_running_loop().set_default_executor(NoThreads())
    assert await parts_of(client, "say yes") == ["yes"]


@pytest.mark.parametrize("bypassed", [False, True])
async def test_the_proxy_of_the_environment(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, bypassed: bool,  # noqa: FBT001
) -> None:  # fmt: skip
    """It gets the request, unless ``no_proxy`` has the server's name."""
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
    monkeypatch.setenv("no_proxy", "model.invalid" if bypassed else "")
    async with ChatModel(base_url="http://model.invalid/v1", model="m").connect() as client:
        if bypassed:
            with pytest.raises(aiohttp.ClientConnectorError):
                await parts_of(client, "say yes")
        else:
            assert await parts_of(client, "say yes") == ["yes"]
            assert server.headers[0]["Host"] == "model.invalid"


@pytest.mark.parametrize("prompt", ["Be brief.", "function", "async function"])
async def test_prompts(server: ChatServer, prompt: str) -> None:
    """The messages are a system text and the question, or what a function returns."""

    def messages(query: Query, _ctx: StageContext) -> list[dict[str, str]]:
        return [{"role": "system", "content": prompt}, {"role": "user", "content": query.user_input}]

    async def later(query: Query, ctx: StageContext) -> list[dict[str, str]]:
        return messages(query, ctx)

    how: Any = {"function": messages, "async function": later}.get(prompt, prompt)
    result = await ask(app_of(server.url, prompt=how), "say yes")
    assert result.answer == "yes"
    assert [message["content"] for message in server.requests[0]["messages"]] == [prompt, "say yes"]


@pytest.mark.parametrize("passed", [True, False])
async def test_headers_go_along_on_request(server: ChatServer, passed: bool) -> None:  # noqa: FBT001
    """Trace and deadline reach the server only where the author wants it."""
    await ask(app_of(server.url, pass_headers=passed), "say yes")
    assert ("x-envoy-upstream-rq-timeout-ms" in server.headers[0]) is passed
