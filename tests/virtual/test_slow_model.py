"""The printed settings for a model that takes a second, tried with the printed app."""

from __future__ import annotations

import asyncio
import tomllib
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from fivestage.settings import Settings
from fivestage.testing import MemoryBus
from support.documents import blocks, section, text_of

if TYPE_CHECKING:
    from fivestage import Pipeline
    from fivestage_schemas import PipelineResult

PAGE = section("Sizes for a model that takes a second", text_of("docs/authors.md"))
LIMIT, TAKES_S, ROUNDS = 32, 1.2, 4


def printed(**model: Any) -> Pipeline:
    """The printed app; *model* replaces what stands for the model."""
    [code] = blocks("python", PAGE)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the project's own document
    names |= model
    app: Pipeline = names["app"]
    return app


def settings(**admission: Any) -> Settings:
    """The printed settings, with other values for admission."""
    [file] = blocks("toml", PAGE)
    given = tomllib.loads(file)
    given["admission"] |= admission
    return Settings.load(None, given)


async def ask(app: Pipeline, count: int, chosen: Settings) -> tuple[list[PipelineResult], float]:
    """Ask queries at the same moment; return the results, and the seconds until the last."""
    clock = asyncio.get_running_loop().time
    async with MemoryBus(app, settings=chosen) as bus:
        since = clock()
        results = await asyncio.gather(*(bus.ask("why?", query_id=f"q-{n}") for n in range(count)))
        return results, clock() - since


def nodes_of(results: list[PipelineResult]) -> dict[str | None, int]:
    """How many queries each node answered."""
    return dict(Counter(result.node for result in results if result.answer is not None))


async def test_more_queries_than_calls_are_all_answered() -> None:
    """They wait for a slot, where their time does not run, and each takes as long as the model."""
    results, took_s = await ask(printed(), ROUNDS * LIMIT, settings())
    assert nodes_of(results) == {"assistant": ROUNDS * LIMIT}
    assert took_s == pytest.approx(ROUNDS * TAKES_S)
    durations = [result.metrics.total_duration_ms for result in results]
    assert durations == pytest.approx([TAKES_S * 1000] * len(durations))
    assert ROUNDS * LIMIT // took_s == 26
    assert "32 / 1.2 s is 26" in PAGE


async def test_more_slots_than_calls_lose_answers() -> None:
    """With the default of 256 slots, half of the queries wait for the node until too little time is left."""
    results, _ = await ask(printed(), ROUNDS * LIMIT, settings(max_in_flight=256))
    assert nodes_of(results)["assistant"] == ROUNDS * LIMIT / 2


async def test_a_slow_answer_is_awaited() -> None:
    """A model that takes twice as long is within its limits."""

    async def slow(_question: str) -> str:
        await asyncio.sleep(2.3)
        return "late"

    results, _ = await ask(printed(ask_model=slow), 2 * LIMIT, settings())
    assert {result.answer for result in results} == {"late"}


async def test_a_model_that_hangs_leaves_time_for_the_other_node() -> None:
    """The short answer comes when the call's limit has passed, before the query's time is up."""

    async def hangs(_question: str) -> str:
        await asyncio.sleep(60)
        return ""

    results, _ = await ask(printed(ask_model=hangs), LIMIT // 2, settings())
    assert nodes_of(results) == {"short": LIMIT // 2}
    assert {round(result.metrics.total_duration_ms) for result in results} == {2400}
