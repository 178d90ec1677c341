"""The status document of a pipeline, in virtual time: what it shows, and that it stays small for hours."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from fivestage import Pipeline
from fivestage.core.ledger import PartitionKey
from fivestage.observability.status.figures import MAX_NODES, RECENT_SLOTS, SLOTS
from fivestage.observability.status.recent import MAX_QUERIES, KeptQuery
from fivestage.observability.status.summary import iso
from fivestage.settings import Settings
from support.status import StatusOfBus
from virtual.samples import EPOCH, block

if TYPE_CHECKING:
    from fivestage.observability.status.model import RecentQuery

CANARY = "canary-4711"
app = Pipeline(builtins=False)


@app.intent
async def intent(query: Any, ctx: Any) -> dict[str, Any]:  # noqa: ARG001
    """Take what the text begins with as the intent."""
    return {"intent": query.user_input.split()[0], "confidence": 1.0}


@app.node("fast", intents={"fast"})
async def fast(query: Any, ctx: Any) -> int:  # noqa: ARG001
    """Answer after 10 ms."""
    await asyncio.sleep(0.01)
    return 1


@app.node("slow", intents={"slow"})
async def slow(query: Any, ctx: Any) -> int:  # noqa: ARG001
    """Answer too late."""
    await asyncio.sleep(1.0)
    return 1


@app.node("broken", intents={"broken"})
async def broken(query: Any, ctx: Any) -> int:  # noqa: ARG001
    """Raise."""
    raise ConnectionError(query.user_input)


@app.validation
async def validation(query: Any, ctx: Any) -> bool:  # noqa: ARG001
    """Accept."""
    return True


def status_of(settings: Settings | None = None, **more: Any) -> StatusOfBus:
    """Make a bus whose wall clock is virtual too."""
    clock = asyncio.get_running_loop().time
    return StatusOfBus(app, settings, wall_clock=lambda: EPOCH + clock(), **more)


def later(status: StatusOfBus, seconds: float) -> asyncio.Task[None]:
    """Close slots for a while."""

    async def run() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await status.document.run()

    return asyncio.create_task(run())


async def test_stages_nodes_and_failures() -> None:
    """Where the time goes, which node is broken, where in the code and why."""
    status = status_of()
    async with status.bus as bus:
        for text in ("fast", "fast", "broken", "slow"):
            await bus.ask(f"{text} {CANARY}", query_id=f"q-{text}", lane="prod")
        found = await status.read()
    nodes = {node["node"]: node for node in found["nodes"]}
    assert nodes["fast"]["p50_ms"] == pytest.approx(10, rel=0.05)
    assert nodes["fast"]["failed"] == 0
    assert nodes["broken"]["failed"] == 1
    line = broken.__code__.co_firstlineno + 3
    assert nodes["broken"]["last_failure"]["where"] == f"{__file__}:{line}"
    assert nodes["broken"]["last_failure"]["error_type"] == "ConnectionError"
    stages = {stage["stage"]: stage for stage in found["stages"]}
    assert stages["processing"]["outcomes"] == {"success": 0.5, "timeout": 0.25, "error": 0.25}
    assert sum(stage["time_share"] or 0.0 for stage in found["stages"]) == pytest.approx(1, abs=0.001)
    assert (stages["processing"]["time_share"] or 0.0) > 0.5
    assert stages["processing"]["limit_ms"] == 120
    assert found["latency"]["p99_ms"] == pytest.approx(120, rel=0.05)
    assert found["windows"][0] == {"window_s": 300, "ended": 4, "in_time": 0.5, "burn_rate": 100}
    late, failed = found["recent"]
    assert (late["query_id"], late["status"], late["node"]) == ("q-slow", "timeout", "slow")
    assert late["why"] == "processing (slow) did not end within the 120 ms it was granted"
    assert (failed["query_id"], failed["where"]) == ("q-broken", f"{__file__}:{line}")
    assert CANARY not in json.dumps(found)


@app.node("flaps", intents={"now"})
async def flaps(query: Any, ctx: Any) -> int:  # noqa: ARG001
    """Raise if the text says so."""
    if query.user_input.endswith("broken"):
        raise ConnectionError
    return 1


@app.node("hogs", intents={"hogs"})
async def hogs(query: Any, ctx: Any) -> int:  # noqa: ARG001
    """Block the event loop for 60 ms."""
    block(0.06)
    return 1


async def test_time_between_stages() -> None:
    """While a node blocks the loop, queries that wait for it spend their time between stages."""
    status = status_of()
    async with status.bus as bus:
        await bus.ask("fast")
        alone = (await status.read())["between"]
        for number in range(3):
            bus.put(f'{{"query_id":"q-{number}","user_input":"hogs"}}'.encode())
        await asyncio.sleep(1)
        found = await status.read()
    assert alone["p95_ms"] < 1
    assert alone["share"] < 0.01
    assert found["between"]["p95_ms"] == pytest.approx(120, rel=0.06)
    assert found["between"]["share"] == pytest.approx(360 / 550, rel=0.1)  # each waits for two others


async def test_only_slow_answers_are_kept() -> None:
    """One that took more than half of its budget; an ordinary one is not."""
    status = status_of()
    async with status.bus as bus:
        await bus.ask("fast", query_id="q-1", budget_ms=100)
        await bus.ask("fast", query_id="q-2", budget_ms=15)
        [slow] = (await status.read())["recent"]
    assert slow["query_id"] == "q-2"
    assert slow["why"] == "answered in 10 ms of 15 ms; processing (fast) took 10 ms"


async def test_text_is_shown_only_if_wanted() -> None:
    """With admin.show_text, in slow and failed queries."""
    status = status_of(Settings(admin={"show_text": True}))
    async with status.bus as bus:
        await bus.ask(f"broken {CANARY}")
        assert (await status.read())["recent"][0]["text"] == f"broken {CANARY}"


async def test_a_long_document_does_not_keep_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between rows that take long, the loop does other work."""
    status = status_of()
    async with status.bus as bus:
        for number in range(3):
            await bus.ask("broken", query_id=f"q-{number}")
        document = KeptQuery.document

        def takes_long(kept: KeptQuery) -> RecentQuery:
            block(0.002)
            return document(kept)

        monkeypatch.setattr(KeptQuery, "document", takes_long)
        turns = 0

        async def other_work() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        working = asyncio.create_task(other_work())
        found = await status.read()
        working.cancel()
    assert len(found["recent"]) == 3
    assert turns >= 3


async def test_what_did_not_change_is_the_same() -> None:
    """Sections that did not change are equal byte by byte: streams leave them out."""
    status = status_of()
    async with status.bus as bus:
        await bus.ask("broken")
        await asyncio.sleep(1)
        before = await status.document.sections()
        await asyncio.sleep(0.0123)
        after = await status.document.sections()
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"at", "rates", "nodes"}
    last = [json.loads(one["nodes"])[0]["last_failure"] for one in (before, after)]
    assert last[0] == last[1]


async def test_an_open_breaker_says_since_when_and_until_when() -> None:
    """With the time of the change, and the seconds until a call may try the node."""
    status = status_of()
    async with status.bus as bus:
        for _ in range(60):
            await bus.ask("broken")
            await asyncio.sleep(0.05)
        [node] = (await status.read())["nodes"]
        assert node["breaker"] in {"open", "half_open"}
        assert node["breaker_since"].startswith("2027-01-15T08:00:0")
        assert node["health"] < 0.5
        await asyncio.sleep(0)
        status.recorder.figures.nodes.clear()
        assert [one["node"] for one in (await status.read())["nodes"]] == ["broken"]


async def test_nodes_that_block() -> None:
    """Who blocks event loops: how often in five minutes, when last and where; names are bounded."""
    status = status_of()
    async with status.bus as bus:
        await bus.ask("hogs")
        for line in (7, 8):
            status.recorder.executor_stalled("hogs", f"app.py:{line} hogs")
        status.recorder.executor_stalled("", None)
        found = await status.read()
        [node] = found["nodes"]
        by = found["workers"]["blocked_by"]
        assert (node["blocked"], node["blocked_at"]) == (2, by[0]["at"])
        assert by[0] == {"name": "hogs", "count": 2, "at": by[0]["at"], "where": "app.py:8 hogs"}
        assert (by[1]["name"], by[1]["count"], found["workers"]["blocked"]) == ("", 1, 3)
        for number in range(2 * MAX_NODES):
            status.recorder.executor_stalled(f"node-{number}", None)
        assert len((await status.read())["workers"]["blocked_by"]) == MAX_NODES
        await later(status, 310)
        assert (await status.read())["workers"]["blocked_by"] == []


async def test_a_node_that_fails_has_a_since() -> None:
    """From the slot in which it began, through single answers, until it answers again."""
    status = status_of()
    async with status.bus as bus:
        lane, begin = "prod", 0.0

        async def slot(*texts: str) -> str | None:
            nonlocal begin
            begin = asyncio.get_running_loop().time()
            for text in texts:
                await bus.ask(text, lane=lane)
            await later(status, 5.0 - (asyncio.get_running_loop().time() - begin) + 0.001)
            found: str | None = (await status.read())["nodes"][0]["failing_since"]
            return found

        assert await slot(*4 * ["now and then fine"]) is None
        assert await slot(*4 * ["now and then fine"], "now and then broken") is None
        since = await slot(*4 * ["now and then broken"], "now and then fine")
        assert since == iso(EPOCH + 10)
        assert await slot() == since
        assert await slot(*2 * ["now and then broken"], *3 * ["now and then fine"]) == since
        assert [await slot(*5 * ["now and then fine"]) for _ in range(4)][-1] is None


async def test_what_waits() -> None:
    """Running and waiting queries, and how long the oldest has waited."""
    status = status_of(Settings(admission={"max_in_flight": 1, "adaptive_limit": False}))
    async with status.bus as bus:
        for number in range(3):
            bus.put(f'{{"query_id":"q-{number}","user_input":"slow"}}'.encode())
        await asyncio.sleep(0.1)
        load = (await status.read())["load"]
        assert (load["running"], load["waiting"], load["in_flight"], load["max_in_flight"]) == (1, 2, 3, 1)
        assert load["oldest_wait_ms"] == pytest.approx(100, abs=1)
        await asyncio.sleep(1)


async def test_lag_of_partitions() -> None:
    """With its trend, and the time until it is gone."""
    key = PartitionKey("queries", 0)
    status = status_of()
    async with status.bus:
        status.lags[key] = 1000
        await later(status, 10.5)
        status.lags = {key: 500}
        found = await status.read()
    assert found["load"]["assigned"] == 1
    assert found["lag"] == {"records": 500, "trend": "falling", "catch_up_s": pytest.approx(5.5, abs=0.2)}
    assert found["partitions"] == [
        {**found["lag"], "topic": "queries", "partition": 0, "uncommitted": 0, "halted": False}
    ]


async def test_slots_are_closed_after_a_pause() -> None:
    """A loop that did not turn closes the slots that it missed, so that windows forget in time."""
    status = status_of()
    async with status.bus as bus:
        await bus.ask("fast")
        await asyncio.sleep(400)
        status.document.close_slots()
        found = await status.read()
    assert found["windows"][0]["ended"] == 0
    assert found["windows"][1]["ended"] == 1
    assert len(found["series"]["ended"]) == 80
    assert sum(found["series"]["ended"]) == 1


async def test_eight_hours_do_not_grow_memory() -> None:
    """Whatever lanes, failures and log lines come: everything that is kept is bounded."""
    status = status_of(partitions=4)
    sizes = []
    async with status.bus as bus:
        for hour in range(8):
            for number in range(120):
                text = ("fast", "slow", "broken")[number % 3]
                await bus.ask(text, query_id=f"q-{hour}-{number}", lane=f"lane-{hour}-{number}")
                status.events.remember(
                    {"event": f"line {hour} {number}", "level": "info", "fields": [number] * 99}
                )
                bus.sink.records.clear()
                if number % 15 == 14:
                    await later(status, 450)
                    await status.read()
            recorder = status.recorder
            assert len(recorder.figures.slots) <= SLOTS
            assert len(recorder.figures.nodes) <= MAX_NODES
            assert len(recorder.recent.newest_first()) <= MAX_QUERIES
            assert len(recorder.figures.whole._closed) <= RECENT_SLOTS
            sizes.append(len(json.dumps(await status.read())))
    assert asyncio.get_running_loop().time() > 8 * 3600
    assert max(sizes[2:]) < 1.1 * sizes[1]
    assert max(sizes) < 200_000
