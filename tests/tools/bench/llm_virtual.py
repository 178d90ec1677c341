"""The contestants of ``--parts llm`` in virtual time, with a model in the same process.

What they do differently is all that differs here: the machine is as if it were infinitely fast, and the same
seed gives the same result.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from fivestage.nodes.llm import ModelBusyError, ModelUnavailableError
from fivestage.nodes.llm.stream import refusal
from fivestage.testing import VirtualTimeLoop
from fivestage.testing.memory import MemoryBus

from .llm_asyncio import RetriableError, attempt
from .llm_faults import (
    DROPS,
    FAILS,
    MOST_AT_A_TIME,
    REFUSAL,
    REFUSES,
    RETRY_AFTER_S,
    STALL_S,
    STALLS,
    WORDS,
    reply,
)
from .llm_run import ASYNCIO, LIMIT, ONE_RETRY, PARTIAL, Run, app_of, ask_all, offer_all, settings_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence

NO_TIMESTAMP = -1
"""The budget of a query starts when it is written, since the wall clock is not virtual."""


class Model:
    """Answers as ``llm_fault_server`` does, in the place of a ``ChatClient``."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._attempts: Counter[str] = Counter()
        self._refused_until: dict[str, float] = {}
        self.calls: Counter[str] = Counter()
        self.running = 0

    async def stream(
        self, messages: Sequence[Mapping[str, Any]], **_options: Any
    ) -> AsyncGenerator[str, None]:
        """See ChatClient."""
        question, now = messages[-1]["content"], asyncio.get_running_loop().time()
        if self.running >= MOST_AT_A_TIME or now < self._refused_until.get(question, 0.0):
            raise self._refused("over the limit")
        drawn = reply(self._seed, question, self._attempts[question])
        self._attempts[question] += 1
        if drawn.kind == REFUSES:
            self._refused_until[question] = now + RETRY_AFTER_S
            raise self._refused(REFUSES)
        self.calls[drawn.kind] += 1
        if drawn.kind == FAILS:
            raise refusal(500, {}, b"")
        self.running += 1
        try:
            for number, word in enumerate(WORDS):
                if number == drawn.broken_at and drawn.kind == DROPS:
                    raise ModelUnavailableError("the model's answer broke off")
                if number == drawn.broken_at and drawn.kind == STALLS:
                    await asyncio.sleep(STALL_S)
                await asyncio.sleep(drawn.seconds / len(WORDS))
                yield word
        finally:
            self.running -= 1

    def _refused(self, why: str) -> Exception:
        self.calls[why] += 1
        return refusal(429, {name.lower(): value for name, value in REFUSAL.items()}, b"")


def run(name: str, seed: int, queries: int) -> Run:
    """Run a round of a contestant; the same arguments give the same result."""
    random.seed(seed)  # of the pauses before retries
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(_contestant(name, seed, queries))


def _contestant(name: str, seed: int, queries: int) -> Coroutine[Any, Any, Run]:
    if name == ASYNCIO:
        return _plain(seed, queries)
    options = {"retries": 1} if name == ONE_RETRY else {}
    return _service(seed, queries, allow_partial=name == PARTIAL, **options)


async def _plain(seed: int, queries: int) -> Run:
    model, slots = Model(seed), asyncio.Semaphore(LIMIT)

    async def once(question: str) -> str:
        try:
            async with aclosing(model.stream([{"content": question}])) as parts:
                return " ".join([part async for part in parts])
        except ModelBusyError as busy:
            raise RetriableError("status 429", busy.retry_after_s) from busy
        except ModelUnavailableError as failed:
            raise RetriableError("failed or broke off") from failed

    ended = await ask_all(lambda question, ends_at: attempt(once, slots, question, ends_at), seed, queries)
    return Run(ended, dict(model.calls), model.running, 0.0)


async def _service(seed: int, queries: int, *, allow_partial: bool, **options: Any) -> Run:
    model = Model(seed)
    app, client = app_of("http://model.invalid/v1", **options)
    with app.override(client, model):
        async with MemoryBus(app, settings=settings_of(allow_partial=allow_partial)) as bus:
            ended = await offer_all(bus, seed, queries, lambda _due: NO_TIMESTAMP)
    return Run(ended, dict(model.calls), model.running, 0.0)
