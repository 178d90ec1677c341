"""The dispatcher on the memory bus, in virtual time."""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from fivestage import Pipeline
from fivestage.core.admission.slots import MAX_HELD_BYTES
from fivestage.core.ledger import PartitionKey
from fivestage.core.observer import Observer
from fivestage.core.records import Output
from fivestage.core.time_slice import SLICE_S
from fivestage.dispatch.back_pressure import MIN_UNFINISHED
from fivestage.dispatch.watchdog import GRACE_S
from fivestage.executors import TICK_S
from fivestage.settings import Settings
from fivestage.testing import VirtualTimeLoop
from fivestage.testing.memory import FETCH_BYTES, TOPIC, MemoryBus
from fivestage_schemas import PipelineStatus, TimeoutEvent
from virtual.samples import EPOCH, block

if TYPE_CHECKING:
    from fivestage import Query, StageContext
    from fivestage.core.deadline import Budget


class Counting(Observer):
    """Counts the reported events."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def came_late(self) -> None:
        self.seen["late"] += 1

    def clock_skewed(self) -> None:
        self.seen["skewed"] += 1

    def received(self, count: int) -> None:
        self.seen["received"] += count


def pipeline(**nodes: Any) -> Pipeline:
    """Four quick stages; the question's first word names the node."""
    app = Pipeline(builtins=False)
    app.intent(_intent)
    app.decision(_decide)
    app.validation(_yes)
    app.reflection(_reflect)
    for name, node in {"echo": _echo, "work": _work, "deaf": _deaf, **nodes}.items():
        app.node(name)(node)
    return app


async def _intent(query: Query, _ctx: StageContext) -> dict[str, Any]:
    return {"intent": query.user_input.split()[0]}


async def _decide(query: Query, _ctx: StageContext) -> str:
    return query.user_input.split()[0]


async def _yes(_query: Query, _ctx: StageContext) -> bool:
    return True


async def _reflect(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    return {}


async def _echo(query: Query, _ctx: StageContext) -> str:
    return query.user_input


async def _work(query: Query, _ctx: StageContext) -> str:
    await asyncio.sleep(0.02)
    return query.user_input


async def _deaf(_query: Query, _ctx: StageContext) -> str:
    for _ in range(10):
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:  # the point of this node
            continue
    return "far too late"


def query(query_id: str, text: str = "work", **fields: Any) -> bytes:
    """A query event."""
    return orjson.dumps({"query_id": query_id, "user_input": text, **fields})


async def finish(bus: MemoryBus, count: int) -> None:
    """Wait for so many terminal events."""
    while len(bus.sink.of(Output.RESULTS)) < count:
        await bus.sink.published()


async def test_in_flight_never_above_the_limit() -> None:
    """With 500 queries waiting, never more than max_in_flight are running, and all are answered."""
    running, highest = 0, 0

    async def counted(query: Query, _ctx: StageContext) -> str:
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        await asyncio.sleep(0.02)
        running -= 1
        return query.user_input

    settings = Settings.model_validate({"admission": {"max_in_flight": 16}})
    async with MemoryBus(pipeline(counted=counted), settings=settings) as bus:
        for number in range(500):
            bus.put(query(f"q{number}", "counted"))
        await finish(bus, 500)
    assert highest == 16
    assert {result.status for result in bus.results()} == {PipelineStatus.SUCCESS}
    assert bus.source.pauses == 0


async def test_long_back_pressure_pauses_and_resumes() -> None:
    """When nothing is acknowledged the source is paused once, memory stays bounded, work goes on after."""
    settings = Settings.model_validate({"admission": {"max_in_flight": 8}})
    most, everything = MIN_UNFINISHED, 2 * MIN_UNFINISHED
    async with MemoryBus(pipeline(), settings=settings) as bus:
        bus.sink.hold = True
        for number in range(everything):
            bus.put(query(f"q{number}", "echo"))
        await finish(bus, most)
        await asyncio.sleep(30)
        assert (len(bus.results()), bus.source.pauses, bus.dispatcher.in_flight) == (most, 1, most)
        bus.sink.acknowledge(1)
        await asyncio.sleep(5)
        assert bus.source.paused  # hysteresis: one free slot is not enough to resume
        bus.sink.hold = False
        bus.sink.acknowledge()
        await finish(bus, everything)
    assert bus.source.pauses == 1


async def test_large_answers_are_bounded_by_their_bytes() -> None:
    """While the broker acknowledges nothing, held answers stay within their bytes; then all are answered."""

    async def large(query: Query, _ctx: StageContext) -> str:
        return query.query_id.ljust(500_000)

    settings = Settings.model_validate({"pipeline": {"total_timeout_ms": 60_000}})
    async with MemoryBus(pipeline(large=large), settings=settings) as bus:
        bus.sink.hold = True
        for number in range(400):
            bus.put(query(f"q{number}", "large"))
        await asyncio.sleep(10)
        answered, held = len(bus.results()), sum(len(record.value or b"") for record in bus.sink.records)
        # The answer that fills it frees its slot before it is counted, and all running queries end too.
        room = (settings.admission.max_in_flight + 1) * held // answered
        assert MAX_HELD_BYTES <= held <= MAX_HELD_BYTES + room
        assert answered < 400
        bus.sink.hold = False
        bus.sink.acknowledge()
        await finish(bus, 400)
    assert bus.dispatcher.in_flight == 0


async def test_dead_letters_are_bounded_by_their_bytes() -> None:
    """Unacknowledged dead letters are bounded by the same number of bytes as answers."""
    settings = Settings.model_validate({"admission": {"max_in_flight": 1000}})
    async with MemoryBus(pipeline(), settings=settings, partitions=4) as bus:
        bus.sink.hold = True
        for number in range(600):
            bus.put(b"\xff" * 900_000, partition=number % 4)
        await asyncio.sleep(10)
        held = sum(len(record.value or b"") for record in bus.sink.records)
        assert MAX_HELD_BYTES <= held <= MAX_HELD_BYTES + 2 * FETCH_BYTES
        bus.sink.hold = False
        bus.sink.acknowledge()
        while len(bus.sink.of(Output.DEAD_LETTERS)) < 600:
            await bus.sink.published()
        await asyncio.sleep(0)
    assert (bus.dispatcher.in_flight, bus.dispatcher.slots.held_bytes, bus.dispatcher.slots.input_bytes) == (
        0,
        0,
        0,
    )


async def test_large_queries_are_bounded_by_their_bytes() -> None:
    """Query bytes count until the query ends, running or waiting; reading resumes as queries end."""
    settings = Settings.model_validate({"admission": {"max_in_flight": 16, "adaptive_limit": False}})
    async with MemoryBus(pipeline(), settings=settings) as bus:
        for number in range(1000):
            bus.put(query(f"q{number}", "work", context={"text": "x" * 255_000}))
        await asyncio.sleep(0.01)
        assert MAX_HELD_BYTES <= bus.dispatcher.slots.input_bytes <= MAX_HELD_BYTES + 2 * FETCH_BYTES
        await finish(bus, 1000)
        await asyncio.sleep(0)
    assert (bus.dispatcher.in_flight, bus.dispatcher.slots.input_bytes) == (0, 0)


async def test_query_bytes_are_released_before_the_acknowledgement() -> None:
    """The bytes of an answered query are released before its events are acknowledged."""
    async with MemoryBus(pipeline()) as bus:
        bus.sink.hold = True
        values = [query(f"q{number}", "echo", context={"text": "x" * 200_000}) for number in range(11)]
        for value in values[:10]:
            bus.put(value)
        await finish(bus, 10)
        assert bus.dispatcher.in_flight == 10
        assert bus.dispatcher.slots.input_bytes == 0
        del value
        await asyncio.sleep(1)
        used = [sys.getrefcount(values[number]) for number in range(11)]
        assert used == [used[10]] * 11


async def test_a_deadline_is_watched_while_nothing_runs() -> None:
    """A query that waits because too much is unacknowledged expires at its deadline."""
    settings = Settings.model_validate({"admission": {"max_in_flight": 1, "adaptive_limit": False}})
    async with MemoryBus(pipeline(), settings=settings) as bus:
        clock = asyncio.get_running_loop().time
        bus.dispatcher._screening.wall_clock = lambda: EPOCH + clock()
        bus.sink.hold = True
        bus.dispatcher.slots._max_held_bytes = 2000
        bus.put(query("first"))
        bus.put(query("waits", deadline=dt.datetime.fromtimestamp(EPOCH + 5, dt.UTC).isoformat()))
        await asyncio.sleep(1)
        assert (bus.dispatcher.slots.running, bus.dispatcher.slots.waiting, len(bus.results())) == (0, 1, 1)
        await finish(bus, 2)
        assert clock() == pytest.approx(5)
        assert str(bus.results()[1].status) == "expired"


async def test_a_query_waits_for_memory_although_slots_are_free() -> None:
    """A query that arrives while too much is unacknowledged starts after the acknowledgement."""
    async with MemoryBus(pipeline()) as bus:
        bus.sink.hold = True
        bus.dispatcher.slots._max_held_bytes = 2000
        await bus.ask("first")
        bus.put(query("waits"))
        await asyncio.sleep(1)
        assert (bus.dispatcher.slots.running, bus.dispatcher.slots.waiting, len(bus.results())) == (0, 1, 1)
        bus.sink.acknowledge()
        await finish(bus, 2)


async def test_offsets_commit_only_behind_acknowledged_events() -> None:
    """The committable position is the contiguous prefix of acknowledged records, whatever their order."""
    async with MemoryBus(pipeline()) as bus:
        bus.sink.hold = True
        bus.put(query("slow", "work"))
        bus.put(query("quick", "echo"))
        await finish(bus, 2)
        key = PartitionKey(TOPIC, 0)
        assert bus.ledger.committable() == {}
        bus.sink.acknowledge(1)  # "quick", published first, at offset 1
        assert bus.ledger.committable() == {}
        bus.sink.acknowledge(1)
        assert bus.ledger.committable() == {key: 2}


async def test_a_node_that_ignores_cancellation_ends_at_its_limit() -> None:
    """A node that ignores its cancellation delays nothing: its query ends at its limit without its answer."""
    counting = Counting()
    loop = asyncio.get_running_loop()
    async with MemoryBus(pipeline(), observer=counting) as bus:
        started = loop.time()
        result = await bus.ask("deaf")
        assert 0.12 + GRACE_S <= loop.time() - started <= 0.12 + GRACE_S + 2 * TICK_S
        assert [left.name for left in bus.executor.abandoned()] == ["deaf"]
        neighbour = await bus.ask("echo")
        await asyncio.sleep(20)
    assert (result.status, neighbour.status) == (PipelineStatus.TIMEOUT, PipelineStatus.SUCCESS)
    outcomes = [str(stage.outcome) for stage in result.stages]
    assert outcomes == [
        "success",
        "success",
        "timeout",
        "skipped",
        "skipped",
    ]
    assert (bus.executor.abandoned(), counting.seen["late"]) == ([], 1)
    assert len(bus.results()) == 2


async def test_expired_queries_run_nothing() -> None:
    """A query whose deadline has passed ends as expired, with a queue timeout and no stage."""
    async with MemoryBus(pipeline()) as bus:
        result = await bus.ask("echo", deadline="2020-01-01T00:00:00Z")
    assert (result.status, result.stages, result.error_type) == (PipelineStatus.EXPIRED, [], "expired")
    assert bus.sink.of(Output.STAGE_RESULTS) == []
    [record] = bus.sink.of(Output.TIMEOUTS)
    assert TimeoutEvent.model_validate_json(record.value or b"").reason == "expired_before_start"


async def test_budget_only_shortens() -> None:
    """A query's own budget ends it earlier; one above the service's total changes nothing."""
    loop = asyncio.get_running_loop()
    async with MemoryBus(pipeline()) as bus:
        started = loop.time()
        short = await bus.ask("deaf", budget_ms=40)
        assert loop.time() - started == pytest.approx(0.04)
        started = loop.time()
        long = await bus.ask("deaf", budget_ms=60_000)
        assert loop.time() - started < 0.25
    assert short.metrics.budget_ms == pytest.approx(40)
    assert long.metrics.budget_ms == pytest.approx(250)


@pytest.mark.fault(19)
async def test_timestamp_in_the_future_is_counted() -> None:
    """A producer's clock that runs ahead gives a queue time of 0 and is counted."""
    counting = Counting()
    async with MemoryBus(pipeline(), observer=counting) as bus:
        bus.put(query("a", "echo"), timestamp=32_503_680_000_000)
        await finish(bus, 1)
    assert bus.results()[0].metrics.queue_ms == 0
    assert counting.seen["skewed"] == 1


async def test_unreadable_records_do_not_stop_the_partition() -> None:
    """Garbage between queries becomes dead letters, and everything is finished."""
    async with MemoryBus(pipeline()) as bus:
        for value in (query("a", "echo"), b"{", None, b'{"query_id":"b"}', query("c", "echo")):
            bus.put(value)
        await finish(bus, 3)
        assert await bus.dispatcher.drain(1.0)
        assert bus.ledger.committable() == {PartitionKey(TOPIC, 0): 5}
    assert {r.query_id: str(r.status) for r in bus.results()} == {
        "a": "success",
        "b": "error",
        "c": "success",
    }
    assert len(bus.sink.of(Output.DEAD_LETTERS)) == 3


async def test_results_of_a_lost_partition_are_dropped() -> None:
    """Results of a revoked partition are neither published nor committed: its next owner answers."""
    key = PartitionKey(TOPIC, 0)
    async with MemoryBus(pipeline()) as bus:
        bus.put(query("a", "work"))
        await asyncio.sleep(0.01)
        bus.ledger.revoke(frozenset({key}))
        bus.ledger.assign(frozenset({key}))
        await asyncio.sleep(0.1)
        assert (bus.results(), bus.ledger.committable(), bus.dispatcher.in_flight) == ([], {}, 0)


@pytest.mark.fault(16)
@pytest.mark.parametrize(("held_s", "last", "runs"), [(40, "expired", 2), (0.4, "timeout", 3)])
async def test_a_query_that_stalled_the_process_twice_is_not_run_again(
    held_s: float, last: str, runs: int
) -> None:
    """After two long stalls a query is answered `expired`, not run again; short stalls do not count."""
    started = 0

    async def holds(_query: Query, _ctx: StageContext) -> None:
        nonlocal started
        started += 1
        block(held_s)

    async with MemoryBus(pipeline(holds=holds)) as bus:
        record = bus.put(query("a", "holds"))
        for answers in (1, 2):
            await finish(bus, answers)
            bus.ledger.assign(frozenset({PartitionKey(TOPIC, 0)}))  # dropped, and rejoined the group
            bus.source.put(record)
        await finish(bus, 3)
        results = bus.results()
        notes = [TimeoutEvent.model_validate_json(r.value or b"") for r in bus.sink.of(Output.TIMEOUTS)]
    assert [str(result.status) for result in results] == ["timeout", "timeout", last]
    assert ("stalled" in (results[-1].error or "")) is (last == "expired")
    assert notes[-1].limit_ms == 250  # its original budget, not the remainder
    assert started == runs


async def test_every_record_has_one_terminal_event_whatever_nodes_do() -> None:
    """Nodes that answer, raise, hang or return garbage: each query has exactly one terminal event."""

    async def raises(_query: Query, _ctx: StageContext) -> None:
        raise SystemExit(1)

    async def garbage(_query: Query, _ctx: StageContext) -> object:
        return object()

    async with MemoryBus(pipeline(raises=raises, garbage=garbage), partitions=3) as bus:
        kinds = ["echo", "work", "deaf", "raises", "garbage", "unknown"]
        for number in range(120):
            bus.put(query(f"q{number}", kinds[number % len(kinds)]), partition=number % 3)
        await finish(bus, 120)
        assert await bus.dispatcher.drain(1.0)
        assert sum(bus.ledger.committable().values()) == 120
    statuses = Counter(str(result.status) for result in bus.results())
    assert statuses == {"success": 40, "timeout": 20, "error": 60}


@pytest.mark.fault(16)
async def test_a_node_that_cancels_itself_is_an_error() -> None:
    """Cancelling one's own task is an error of that stage, at once, not a timeout of the query."""

    async def cancels_itself(_query: Query, _ctx: StageContext) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0.01)

    async with MemoryBus(pipeline(itself=cancels_itself)) as bus:
        started = asyncio.get_running_loop().time()
        result = await bus.ask("itself")
        assert asyncio.get_running_loop().time() - started < 0.05
    assert (result.status, result.error_type) == (PipelineStatus.ERROR, "CancelledError")


async def test_dead_letters_keep_the_headers_for_a_replay() -> None:
    """A dead letter keeps the headers needed to replay it, and no others."""
    kept = [("content-type", b"application/cloudevents+json"), ("traceparent", b"00-x"), ("lane", b"canary")]
    async with MemoryBus(pipeline()) as bus:
        bus.put(b"{", headers=[*kept, ("x-secret", b"1")], key=b"k")
        await bus.sink.published()
    [letter] = bus.sink.of(Output.DEAD_LETTERS)
    names = {"dlq.reason", "dlq.detail", "dlq.topic", "dlq.partition", "dlq.offset", "dlq.timestamp"}
    assert (letter.key, letter.value) == (b"k", b"{")
    assert [header for header in letter.headers if header[0] not in names] == kept
    assert len(letter.headers) == len(names) + len(kept)


async def test_error_events_of_unreadable_queries_keep_their_context() -> None:
    """The error event of an unreadable query has its trace, its cause and its lane."""
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = [("traceparent", f"00-{trace_id}-00f067aa0ba902b7-01".encode()), ("ce_id", b"cause-1")]
    async with MemoryBus(pipeline()) as bus:
        bus.put(b'{"query_id":"a","lane":"canary"}', headers=headers)
        await finish(bus, 1)
    [record] = bus.sink.of(Output.RESULTS)
    found = dict(record.headers)
    assert found["traceparent"].split(b"-")[1] == trace_id.encode()
    assert (found["ce_causationid"], found["lane"]) == (b"cause-1", b"canary")
    assert bus.results()[0].lane == "canary"


async def test_records_of_an_earlier_assignment_are_not_dispatched() -> None:
    """Records fetched before a partition was revoked and reassigned are left to be fetched again."""
    keys = frozenset({PartitionKey(TOPIC, 0)})
    async with MemoryBus(pipeline()) as bus:
        bus.poller.stop()
        await asyncio.sleep(1)  # the bus's own fetch loop has ended
        bus.put(query("a", "echo"))
        fetched = await bus.source.fetch(1)
        bus.ledger.revoke(keys)
        bus.ledger.assign(keys)
        await bus.poller._dispatch_all(fetched)
        await asyncio.sleep(1)
    assert (len(fetched), bus.results(), bus.dispatcher.in_flight) == (1, [], 0)


@pytest.mark.interpreted
async def test_records_are_taken_in_by_slices() -> None:
    """Other tasks run between two records when decoding is slow."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    turns: list[str] = []

    def slow_grant(*args: Any) -> Budget:
        loop._jumps.waited_s += 2 * SLICE_S
        turns.append("record")
        return grant(*args)

    async def neighbour() -> None:
        while True:
            turns.append("neighbour")
            await asyncio.sleep(0)

    async with MemoryBus(pipeline()) as bus:
        bus.poller.stop()
        await asyncio.sleep(1)
        for number in range(5):
            bus.put(query(f"q{number}", "echo"))
        fetched = await bus.source.fetch(5)
        screening = bus.dispatcher._screening
        grant = screening.budget
        screening.budget = slow_grant  # type: ignore[method-assign, assignment]
        running = asyncio.create_task(neighbour())
        await bus.poller._dispatch_all(fetched)
        running.cancel()
        await finish(bus, 5)
    assert ["record", "record"] not in [list(pair) for pair in pairwise(turns)]
    assert turns.count("record") == 5
