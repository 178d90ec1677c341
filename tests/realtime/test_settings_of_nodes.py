"""Nodes and resources get their settings in every executor, in a replaced worker too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fivestage import ConfigurationError, Orchestrator, Plan, ResourceError, StageType
from fivestage.core.observer import Observer
from fivestage.executors import InlineExecutor, ProcessExecutor, ThreadExecutor
from fivestage.pipeline.settings import MAX_BYTES, unmasked
from fivestage.settings import Settings
from fivestage.testing import MemoryBus
from support.settings_app import NODES, app

if TYPE_CHECKING:
    from fivestage.executors import Executor

LONG_S = 120.0
LIMITS: dict[str, Any] = {
    "total_timeout_ms": 120_000,
    "stage_timeouts_ms": dict.fromkeys(StageType, 60_000),
}
PLAN = Plan.of(**LIMITS)
KINDS = ["inline", "thread", "process"]


def executor(kind: str, nodes: dict[str, Any]) -> Executor:
    """Return an executor of one kind, not started."""
    if kind == "process":
        return ProcessExecutor(
            "support.settings_app:app",
            PLAN,
            workers=1,
            threads=4,
            observer=Observer(),
            stall_s=LONG_S,
            spares=0,
            max_data_bytes=1_000_000,
            nodes=nodes,
        )
    orchestrator = Orchestrator(app, plan=PLAN, threads=4, nodes=nodes)
    if kind == "inline":
        return InlineExecutor(orchestrator)
    return ThreadExecutor(orchestrator, observer=Observer(), stall_s=LONG_S)


def bus_of(kind: str, nodes: dict[str, Any]) -> MemoryBus:
    """Return a bus that runs the app in such an executor."""
    settings = Settings.load(None, {"pipeline": LIMITS})
    return MemoryBus(app, settings=settings, executor=executor(kind, nodes))


@pytest.mark.parametrize("kind", KINDS)
async def test_settings_arrive(kind: str) -> None:
    """With a model and without one, on a loop and in a thread, in a resource, in a node's own check."""
    async with bus_of(kind, NODES) as bus:
        results = {word: await bus.ask(word) for word in ("typed", "plain", "none", "shared")}
    assert {word: one.answer for word, one in results.items()} == {
        "typed": "hihi",
        "plain": [True, True],
        "none": 0,
        "shared": ["a", "b", "c"],
    }
    assert results["typed"].validated is True


async def test_the_largest_settings_arrive() -> None:
    """Also where each character takes two bytes more on its way to a worker process."""
    text = '"' * (MAX_BYTES // 2 - 200)
    settings = Settings.load(None, {"nodes": {**NODES, "plain": {**NODES["plain"], "text": text}}})
    async with bus_of("process", unmasked(settings.nodes)) as bus:
        assert (await bus.ask("plain")).answer == [True, True]


async def test_a_replaced_worker_has_them() -> None:
    """A worker process that is killed is followed by one with the same settings."""
    async with bus_of("process", NODES) as bus:
        before = (await bus.ask("pid")).answer
        assert (await bus.ask("dies")).error_type == "worker_died"
        assert (await bus.ask("typed")).answer == "hihi"
        assert (await bus.ask("shared")).answer == ["a", "b", "c"]
        assert (await bus.ask("pid")).answer != before


@pytest.mark.parametrize("kind", KINDS)
async def test_a_resource_with_wrong_settings_is_not_tried_again(kind: str) -> None:
    """The start fails at once, with the key; it would fail in the same way later."""
    with pytest.raises(ResourceError) as caught:
        async with bus_of(kind, {**NODES, "on_loop": {"wrods": []}}):
            pass
    said = "resource 'on_loop' could not be opened: nodes.on_loop.wrods: there is no such setting"
    assert str(caught.value).startswith(said)


async def test_worker_processes_check_what_they_get() -> None:
    """A ProcessExecutor used without the service refuses wrong settings."""
    nodes = {**NODES, "typed": {"word": "hi", "times": "many"}}
    with pytest.raises(ConfigurationError, match=r"nodes.typed.times: Input should be a valid int"):
        async with bus_of("process", nodes):
            pass
