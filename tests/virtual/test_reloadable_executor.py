"""An executor whose app is replaced: where jobs run, when the earlier app ends, and what a failure leaves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from fivestage import Orchestrator, Pipeline
from fivestage.core.plan import Plan
from fivestage.errors import ResourceError
from fivestage.executors import InlineExecutor
from fivestage.executors.executor import TICK_S
from fivestage.executors.reloadable import ReloadableExecutor
from fivestage.settings import Settings
from fivestage_schemas import StageType
from support.jobs import Bus, started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SETTINGS = Settings()
PLAN = Plan.of(total_timeout_ms=60_000, stage_timeouts_ms=dict.fromkeys(StageType, 50_000))


class App:
    """A version of an app, whose node answers the version, and whether its resource is open.

    Args:
        version: What it answers.
        fails: Its resource cannot be opened.
    """

    def __init__(self, version: str, *, fails: bool = False) -> None:
        self.pipeline = Pipeline()
        self.go = asyncio.Event()
        self.is_open = False

        @self.pipeline.resource
        async def model() -> AsyncIterator[str]:
            if fails:
                raise ConnectionError
            self.is_open = True
            yield version
            self.is_open = False

        @self.pipeline.intent
        async def intent(query: object, ctx: object) -> dict[str, str]:
            del query, ctx
            return {"intent": "word"}

        @self.pipeline.node("word", intents={"word"})
        async def word(query: object, ctx: object) -> str:
            del query, ctx
            await self.go.wait()
            return version


def make(_settings: Settings, app: Pipeline) -> InlineExecutor:
    """Make the executor of an app."""
    return InlineExecutor(Orchestrator(app, plan=PLAN, start_timeout_ms=100))


async def test_jobs_end_where_they_started() -> None:
    """A job of the earlier app ends there; its resources close after its last job, and not before."""
    old, new = App("old"), App("new")
    executor = ReloadableExecutor(make, SETTINGS, old.pipeline)
    bus = Bus(executor, PLAN)
    async with started(bus):
        first = bus.submit("anything")
        await bus.processing(first)
        await executor.reload(SETTINGS, new.pipeline)
        new.go.set()
        second = await bus.ask("anything")
        assert second.history.answer_json == b'"new"'
        assert (old.is_open, new.is_open) == (True, True)
        old.go.set()
        await bus.ended(first)
        assert first.history.answer_json == b'"old"'
        while old.is_open:
            await asyncio.sleep(TICK_S)
        assert new.is_open
    assert not new.is_open


async def test_given_up_job_ends_the_earlier_app() -> None:
    """A job that ends at its deadline does not keep the earlier app."""
    old = App("old")
    executor = ReloadableExecutor(make, SETTINGS, old.pipeline)
    bus = Bus(executor, PLAN)
    async with started(bus):
        job = bus.submit("anything")
        await bus.processing(job)
        await executor.reload(SETTINGS, App("new").pipeline)
        bus.give_up(job)
        while old.is_open:
            await asyncio.sleep(TICK_S)


async def test_failed_reload_changes_nothing() -> None:
    """An app whose resource does not open leaves the earlier one running."""
    old = App("old")
    old.go.set()
    executor = ReloadableExecutor(make, SETTINGS, old.pipeline)
    bus = Bus(executor, PLAN)
    async with started(bus):
        with pytest.raises(ResourceError):
            await executor.reload(SETTINGS, App("new", fails=True).pipeline)
        assert (await bus.ask("anything")).history.answer_json == b'"old"'


async def test_stop_ends_both() -> None:
    """A stop does not wait for the jobs of an earlier app, and closes the resources of both."""
    old, new = App("old"), App("new")
    executor = ReloadableExecutor(make, SETTINGS, old.pipeline)
    bus = Bus(executor, PLAN)
    async with started(bus):
        await bus.processing(bus.submit("anything"))
        await executor.reload(SETTINGS, new.pipeline)
    assert (old.is_open, new.is_open) == (False, False)
