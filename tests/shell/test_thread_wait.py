"""Waiting for a thread is waiting for a slot: no stage's time and no query's time goes by meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from fivestage import Orchestrator, Pipeline
from fivestage.core.events import Observer
from fivestage.executors import InlineExecutor, ThreadExecutor
from fivestage.memory import MemoryBus
from fivestage.settings import Settings
from shell.samples import ends, finish, query, stage, statuses
from support.jobs import until
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fivestage import Query, StageContext
    from fivestage.executors import Executor

pytestmark = pytest.mark.realtime
THREADS = 4
MANY = 100


class App:
    """An app whose ``def`` node waits at a gate, and whose other node is an ``async def``."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.calls: Counter[str] = Counter()
        self.pipeline = app = Pipeline(builtins=False)

        @app.decision
        async def decide(query: Query, _ctx: StageContext) -> str:
            return query.user_input

        @app.node("blocks")
        def blocks(query: Query, ctx: StageContext) -> float:
            self.calls[query.query_id] += 1
            left_ms = ctx.remaining_ms()
            assert self.gate.wait(30)
            return left_ms

        @app.node("quick")
        async def quick(_query: Query, _ctx: StageContext) -> str:
            return "quick"
