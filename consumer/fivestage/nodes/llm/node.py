"""Declares a node that asks a language model."""

from __future__ import annotations

import inspect
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from fivestage.nodes.llm.client import ChatModel
from fivestage.nodes.llm.stream import ModelBusyError, ModelUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

    from fivestage.nodes.llm.client import ChatClient
    from fivestage.pipeline.context import Query, StageContext
    from fivestage.pipeline.pipeline import Pipeline
    from fivestage.pipeline.resource import Resource

    Messages = Sequence[Mapping[str, Any]]
    Prompt = Callable[[Query, StageContext], Messages | Awaitable[Messages]]


LATER_MS: Final = 5000.0
"""Milliseconds after the end of the stage at which the client would give up by itself. The stage may end
later than its limit, since it gets back the time in which other code blocked the loop."""
RETRY_ON: Final = (ModelUnavailableError, ModelBusyError, aiohttp.ClientConnectionError)


def add_llm_node(
    app: Pipeline,
    name: str,
    model: ChatModel | None = None,
    *,
    intents: Iterable[str],
    prompt: str | Prompt = "",
    confidence: float = 0.8,
    limit: int | None = None,
    timeout_ms: float | None = None,
    retries: int = 2,
    pass_headers: bool = False,
) -> Resource[ChatClient]:
    """Declare a node that asks a language model, and offers the answer as far as it has come.

    The request ends with the stage: a cancelled query closes its connection. Where the server fails, the node
    is called again, then another node that takes the intent, while there is time. Where the server has too
    many requests, another node is called at once; if there is none, the same one after the wait that the
    server asks for. What has come of an answer that breaks off counts as offered.

    Args:
        app: The pipeline.
        name: The node's name.
        model: The model and its server; if it is not given, the settings ``[nodes.NAME]``.
        intents: The intents that the node takes.
        prompt: The text of the system message; or a function ``(query, ctx)``, also an ``async def``, that
            returns all messages of the chat.
        confidence: Of a complete answer, 0 to 1; half of it of one that is not complete yet.
        limit: Requests at a time, in each worker process; as many as the server answers well.
        timeout_ms: Milliseconds that a request may take, if the stage does not grant less.
        retries: Further requests for the same query after the server failed or was busy.
        pass_headers: Send trace and deadline along (``ctx.headers()``). Leave it off for servers of others.

    Returns:
        The resource with the client, to use in other nodes, or to override in a test.

    Example:
        >>> from fivestage import Pipeline
        >>> from fivestage.nodes.llm import ChatModel, add_llm_node
        >>> app = Pipeline()
        >>> model = ChatModel(base_url="http://127.0.0.1:8000/v1", model="qwen3-4b")
        >>> add_llm_node(app, "assistant", model, intents={"question"}, prompt="Answer in one sentence.")
        <Resource assistant_client, once per event loop>
    """

    async def client() -> AsyncIterator[ChatClient]:
        chosen = model or app.settings(name, ChatModel)
        async with chosen.connect() as connected:
            yield connected

    client.__name__ = f"{name}_client"
    resource = app.resource(client)

    declare = app.node(
        name,
        intents=intents,
        limit=limit,
        timeout_ms=timeout_ms,
        retries=retries,
        retry_on=RETRY_ON if retries else (),
        idempotent=True,
        settings=None if model else ChatModel,
    )
    declare(_ModelNode(resource, prompt, confidence=confidence, pass_headers=pass_headers).ask)
    return resource


class _ModelNode:
    """Asks the model for one query; see ``add_llm_node``."""

    def __init__(
        self, client: Resource[ChatClient], prompt: str | Prompt, *, confidence: float, pass_headers: bool
    ) -> None:
        self._client = client
        self._prompt = prompt
        self._confidence = confidence
        self._pass_headers = pass_headers

    async def ask(self, query: Query, ctx: StageContext) -> dict[str, Any]:
        """Stream the answer, and offer it as far as it has come."""
        messages = await self._messages(query, ctx)
        headers = ctx.headers() if self._pass_headers else None
        text = ""
        # The stage ends first, and what was offered counts: the client's own timeout would discard it.
        timeout_s = ctx.timeout(reserve_ms=-LATER_MS)
        answer = ctx.use(self._client).stream(messages, timeout_s=timeout_s, headers=headers)
        async with aclosing(answer) as parts:
            async for part in parts:
                text += part
                ctx.offer(text, confidence=self._confidence / 2)
        if not text:
            raise ModelUnavailableError("the model's answer is empty")
        return {"answer": text, "confidence": self._confidence}

    async def _messages(self, query: Query, ctx: StageContext) -> Messages:
        prompt = self._prompt
        if not isinstance(prompt, str):
            messages = prompt(query, ctx)
            return await messages if inspect.isawaitable(messages) else messages
        question = {"role": "user", "content": query.user_input}
        return [{"role": "system", "content": prompt}, question] if prompt else [question]
