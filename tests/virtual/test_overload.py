"""More queries than capacity: waiting, load shedding, and how many answers are in time."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from fivestage.core.adaptive.lane_state import MIN_ANSWERS
from fivestage.core.adaptive.slot_pressure import PRESSURE_S
from fivestage.core.admission.concurrency_limit import ConcurrencyLimiter, LimiterPolicy
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus
from fivestage_schemas import TimeoutReason, TimeoutScope

from .samples import (
    EPOCH,
    KEY,
    FakeNode,
    Listening,
    ask_in_turn,
    ask_many,
    ends,
    finish,
    in_virtual_time,
    pipeline,
    query,
    statuses,
    timeouts,
    timestamp,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fivestage.core.observer import ControlChange
    from fivestage.testing.memory import MemorySource

FIXED: dict[str, Any] = {"adaptive": {"enabled": False}}


def admission(**options: Any) -> Settings:
    """Build settings with fixed stage limits and these admission settings."""
    return Settings.model_validate({**FIXED, "admission": {"adaptive_limit": False, **options}})


# Waiting


async def test_waiting_costs_nothing_of_the_budget() -> None:
    """Without an absolute deadline the budget, also a producer's, starts when the query starts."""
    async with MemoryBus(pipeline(any=FakeNode(0.1)), settings=admission(max_in_flight=1)) as bus:
        for number in range(10):
            bus.put(query(f"q{number}", budget_ms=110))
        await finish(bus, 10)
        assert asyncio.get_running_loop().time() == pytest.approx(1.0)
    assert statuses(bus) == {"success": 10}
    assert {round(result.metrics.budget_ms) for result in bus.results()} == {110}


@pytest.mark.parametrize("bound", ["deadline", "ttl"])
async def test_a_waiting_query_expires_at_its_deadline(bound: str) -> None:
    """A query that expires while it waits ends at its deadline, not when a slot is free, and never runs."""
    node, listening = FakeNode(0.11), Listening()
    settings = admission(max_in_flight=1, query_ttl_ms=60 if bound == "ttl" else 0)
    async with MemoryBus(pipeline(any=node), settings=settings, observer=listening) as bus:
        in_virtual_time(bus)
        fields = {} if bound == "ttl" else {"deadline": "2027-01-15T08:00:00.060Z"}  # EPOCH + 60 ms
        bus.put(query("runs"))
        bus.put(query("waits", **fields), timestamp=timestamp())
        await finish(bus, 1)
        assert asyncio.get_running_loop().time() == pytest.approx(0.06, abs=0.001)
        [expired] = bus.results()
        await finish(bus, 2)
    assert (expired.query_id, str(expired.status), expired.stages) == ("waits", "expired", [])
    assert (node.calls, listening.expirations) == (["runs"], {TimeoutReason.EXPIRED_BEFORE_START: 1})
    [note] = timeouts(bus)
    assert (note.scope, note.reason) == (TimeoutScope.QUEUE, TimeoutReason.EXPIRED_BEFORE_START)


@pytest.mark.fault(19)
async def test_a_wall_clock_set_back_moves_no_deadline() -> None:
    """Setting the wall clock back does not move the deadline of a waiting query."""
    node = FakeNode(0.11)
    settings = admission(max_in_flight=1, query_ttl_ms=60)
    async with MemoryBus(pipeline(any=node), settings=settings) as bus:
        in_virtual_time(bus)
        bus.put(query("runs"))
        bus.put(query("waits"), timestamp=timestamp())
        await asyncio.sleep(0.03)
        bus.dispatcher._screening.wall_clock = lambda: EPOCH
        await finish(bus, 2)
    assert (statuses(bus), node.highest) == ({"success": 1, "expired": 1}, 1)


async def test_a_drain_hands_back_waiting_queries() -> None:
    """Queries that wait when a drain starts are neither started nor answered nor committed."""
    node = FakeNode(0.05)
    async with MemoryBus(pipeline(any=node), settings=admission(max_in_flight=2)) as bus:
        for number in range(6):
            bus.put(query(f"q{number}"))
        await asyncio.sleep(0.01)
        assert (bus.ledger.in_flight(), bus.dispatcher.in_flight, bus.dispatcher.waiting) == (6, 6, 4)
        draining = asyncio.create_task(bus.dispatcher.drain(1.0))
        await asyncio.sleep(0)
        assert (bus.ledger.in_flight(), bus.dispatcher.in_flight, bus.dispatcher.waiting) == (2, 2, 0)
        assert await draining
        assert asyncio.get_running_loop().time() == pytest.approx(0.05)
        await asyncio.sleep(1)
        assert (bus.ledger.in_flight(), bus.dispatcher.in_flight) == (0, 0)
        assert bus.ledger.committable() == {KEY: 2}
    assert (node.calls, statuses(bus)) == (["q0", "q1"], {"success": 2})


@pytest.mark.parametrize("value", [b'{"query_id":"q2"}', query("q2", deadline="2020-01-01T00:00:00Z")])
async def test_a_drain_leaves_nothing_before_an_answered_record(value: bytes) -> None:
    """A query before a rejected record runs, or the next owner would publish that rejection again."""
    node = FakeNode(0.05)
    async with MemoryBus(pipeline(any=node), settings=admission(max_in_flight=1)) as bus:
        for one in (query("q0"), query("q1"), value):
            bus.put(one)
        await asyncio.sleep(0.01)
        assert await bus.dispatcher.drain(1.0)
        assert bus.ledger.committable() == {KEY: 3}
    assert node.calls == ["q0", "q1"]


async def test_records_that_arrive_during_a_drain_are_handed_back() -> None:
    """A record delivered while its partition is drained is left to the next owner; other partitions go on."""
    node = FakeNode(0.05)
    async with MemoryBus(pipeline(any=node), settings=admission(max_in_flight=2), partitions=2) as bus:
        bus.put(query("a"))
        await asyncio.sleep(0.01)
        draining = asyncio.create_task(bus.dispatcher.drain(1.0, frozenset({KEY})))
        await asyncio.sleep(0)
        bus.put(query("b"))
        bus.put(query("c"), partition=1)
        assert await draining
        await asyncio.sleep(1)
        assert (bus.ledger.in_flight(), bus.dispatcher.in_flight) == (0, 0)
        assert bus.ledger.committable() == {KEY: 1, KEY._replace(partition=1): 1}
    assert node.calls == ["a", "c"]


async def test_nothing_starts_after_a_drain() -> None:
    """Records that arrive before the revocation, or wait when a drain times out, are fetched again."""
    node, keys = FakeNode(0.1), frozenset({KEY})
    async with MemoryBus(pipeline(any=node), settings=admission(max_in_flight=1), partitions=2) as bus:
        for value in (query("a"), query("b"), b"{", query("c")):  # b stands before an answered record
            bus.put(value)
        await asyncio.sleep(0.01)
        assert not await bus.dispatcher.drain(0.05, keys)
        bus.put(query("late"))
        bus.put(query("other"), partition=1)
        await asyncio.sleep(1)
        assert (bus.ledger.in_flight(), bus.dispatcher.in_flight) == (1, 0)  # b is not drained
        assert bus.ledger.committable() == {KEY: 1, KEY._replace(partition=1): 1}
        bus.ledger.revoke(keys)
        bus.ledger.assign(keys)
        bus._next_offsets[0] = 0
        bus.put(query("again"))
        await finish(bus, 3)
    assert node.calls == ["a", "other", "again"]


async def test_a_drain_that_is_cancelled_is_over() -> None:
    """When a client dies in a rebalance and cancels the drain, records of its successor are answered."""
    node = FakeNode(0.05)
    async with MemoryBus(pipeline(any=node), settings=admission(max_in_flight=2)) as bus:
        bus.put(query("a"))
        await asyncio.sleep(0.01)
        draining = asyncio.create_task(bus.dispatcher.drain(1.0, frozenset({KEY})))
        await asyncio.sleep(0)
        draining.cancel()
        await asyncio.sleep(1)
        bus.ledger.revoke(frozenset({KEY}))
        bus.ledger.assign(frozenset({KEY}))
        bus.put(query("b"))
        await asyncio.sleep(1)
        assert bus.ledger.committable() == {KEY: 2}
    assert node.calls == ["a", "b"]


# Queries that would expire before their answer


async def learned(node: FakeNode, settings: Settings) -> tuple[MemoryBus, Listening]:
    """Build a bus that has learned the latency of an answer; not stopped yet."""
    listening = Listening()
    bus = await MemoryBus(pipeline(any=node), settings=settings, observer=listening).__aenter__()
    in_virtual_time(bus)
    await ask_many(bus, "learn", MIN_ANSWERS)
    return bus, listening


async def test_a_query_that_would_expire_is_not_started() -> None:
    """With 5 ms left of a 20 ms latency a query is rejected before it runs, with the reason."""
    node = FakeNode(0.02)
    bus, listening = await learned(node, admission())
    async with bus:
        started = asyncio.get_running_loop().time()
        for number in range(20):
            bus.put(query(f"q{number}", budget_ms=5))
        await finish(bus, MIN_ANSWERS + 20)
        result = bus.result("q19")
        assert result is not None
        assert asyncio.get_running_loop().time() - started < 0.01
    assert (str(result.status), result.stages, result.error_type) == ("expired", [], "expired")
    assert len(node.calls) == MIN_ANSWERS + 1  # one of twenty runs: the estimate may be wrong
    assert listening.expirations == {TimeoutReason.WOULD_EXPIRE: 19}
    notes = [note for note in timeouts(bus) if note.query_id == "q19"]
    assert [(note.scope, note.reason) for note in notes] == [(TimeoutScope.QUEUE, TimeoutReason.WOULD_EXPIRE)]
    assert listening.shed_ == [True] * 19
    assert result.error == "less time was left than an answer takes"  # although its answer is useful for ever


@pytest.mark.parametrize(("mode", "counted"), [("observe", [False] * 20), ("off", [])])
async def test_load_shedding_can_be_switched_off(mode: str, counted: list[bool]) -> None:
    """``observe`` counts what it would reject and runs it, ``off`` only runs it."""
    node = FakeNode(0.02)
    bus, listening = await learned(node, admission(shed=mode))
    async with bus:
        await ask_many(bus, "q", 20, budget_ms=5)
    assert (len(node.calls), listening.shed_, listening.expirations) == (MIN_ANSWERS + 20, counted, {})
    assert statuses(bus) == {"success": MIN_ANSWERS, "timeout": 20}


async def test_a_query_with_its_whole_budget_is_never_rejected() -> None:
    """A query with its whole budget runs, however slow answers are."""
    node, listening = FakeNode(10.0), Listening()
    async with MemoryBus(pipeline(any=node), settings=admission(), observer=listening) as bus:
        await ask_many(bus, "slow", 2 * MIN_ANSWERS)
        breaker_opened_after = len(node.calls)
        await ask_many(bus, "q", 20, budget_ms=60_000)
    assert breaker_opened_after == 2 * MIN_ANSWERS
    assert (listening.shed_, listening.expirations) == ([], {})


@pytest.mark.parametrize("max_share", [0.95, 0.5])
async def test_some_run_whatever_the_estimate_says(max_share: float) -> None:
    """At least 1 - max_share of the queries to be rejected run: the estimate may be wrong."""
    node = FakeNode(0.02)
    bus, listening = await learned(node, admission(shed_max_share=max_share))
    async with bus:
        for number in range(200):
            bus.put(query(f"q{number}", budget_ms=10))
            await asyncio.sleep(0.02)
        await finish(bus, MIN_ANSWERS + 200)
    ran = len(node.calls) - MIN_ANSWERS
    assert ran == pytest.approx(200 * (1 - max_share), abs=1)
    assert listening.expirations == {TimeoutReason.WOULD_EXPIRE: 200 - ran}


async def test_a_wrong_estimate_is_found_out() -> None:
    """When the node becomes fast, the sampled queries correct the estimate and rejections end."""
    node = FakeNode(0.1)
    bus, listening = await learned(node, admission(shed_max_share=0.9))
    async with bus:
        node.takes_s = 0.001
        for number in range(1000):
            bus.put(query(f"q{number}", budget_ms=50))
            await asyncio.sleep(0.001)
        await finish(bus, MIN_ANSWERS + 1000)
        refused = len(listening.shed_)
        await ask_many(bus, "later", 100, budget_ms=50)
    assert 0 < refused < 100
    assert len(listening.shed_) == refused


async def test_nothing_is_rejected_without_enough_samples() -> None:
    """One answer below min_samples, queries with almost no time left run."""
    node, listening = FakeNode(0.02), Listening()
    async with MemoryBus(pipeline(any=node), settings=admission(), observer=listening) as bus:
        await ask_many(bus, "learn", MIN_ANSWERS - 1)
        await ask_many(bus, "q", 20, budget_ms=5)
    assert (len(node.calls), listening.shed_) == (MIN_ANSWERS + 19, [])


async def test_the_estimate_is_stricter_while_slots_are_scarce() -> None:
    """While slots are scarce, and for a second after, the estimate is a higher quantile than the median."""
    node = FakeNode()
    async with MemoryBus(pipeline(any=node), settings=admission(max_in_flight=1, shed_max_share=1)) as bus:
        for number in range(2 * MIN_ANSWERS):
            node.takes_s = 0.1 if number % 10 < 4 else 0.02
            await bus.ask("any")
        node.takes_s = 0.02
        calm = await bus.ask("any", budget_ms=50)
        await ask_many(bus, "two", 2)
        pressed = await bus.ask("any", budget_ms=50)
        await asyncio.sleep(PRESSURE_S)
        calm_again = await bus.ask("any", budget_ms=50)
        hopeless = await bus.ask("any", budget_ms=15)
    found = [str(result.status) for result in (calm, pressed, calm_again, hopeless)]
    assert found == ["success", "expired", "success", "expired"]


# Overload

SLOTS, TAKES_S, SECONDS, TTL_S = 16, 0.02, 2, 0.25
CAPACITY = SLOTS / TAKES_S


async def overload(times: float, **options: Any) -> tuple[MemoryBus, Listening]:
    """Send a multiple of the capacity for some seconds; each answer is useful for 250 ms."""
    listening = Listening()
    settings = admission(max_in_flight=SLOTS, query_ttl_ms=round(TTL_S * 1000), **options)
    async with MemoryBus(pipeline(any=FakeNode(TAKES_S)), settings=settings, observer=listening) as bus:
        in_virtual_time(bus)
        sent = 0
        for tick in range(1, SECONDS * 200 + 1):
            for _ in range(round(tick * times * CAPACITY / 200) - sent):
                bus.put(query(f"q{sent}"), timestamp=timestamp())
                sent += 1
            await asyncio.sleep(0.005)
        await finish(bus, sent)
        assert await bus.dispatcher.drain(1.0)
        assert bus.ledger.committable() == {KEY: sent}
    assert set(ends(bus).values()) == {1}
    assert len(ends(bus)) == sent
    return bus, listening


@pytest.mark.parametrize("times", [3, 10])
async def test_goodput_beyond_capacity(times: int) -> None:
    """At 3 and 10 times the capacity, nine tenths of the capacity are answered in time; each query ends."""
    bus, _ = await overload(times)
    found = statuses(bus)
    assert found["success"] >= 0.9 * (SECONDS + TTL_S) * CAPACITY  # the last ones are finished as well
    assert found["timeout"] <= 0.05 * SECONDS * CAPACITY
    assert found["success"] + found["timeout"] + found["expired"] == times * SECONDS * CAPACITY


async def test_goodput_without_refusing() -> None:
    """Without rejections, queries that will be late take the slots of others."""
    bus, listening = await overload(3, shed="off")
    found = statuses(bus)
    assert listening.shed_ == []
    assert found["success"] < 0.5 * SECONDS * CAPACITY
    assert found["timeout"] > SECONDS * CAPACITY


# The concurrency limit


def keep_busy(source: MemorySource, bus: MemoryBus) -> Iterator[None]:
    """Keep more queries waiting than can run, at each step."""
    number = 0
    while True:
        while len(source._records) < 100:
            bus.put(query(f"busy{number}"))
            number += 1
        yield


async def limits_while_slow(settings: Settings, *phases: tuple[float, int]) -> list[int]:
    """Return the concurrency limit after each phase of so many seconds at a latency."""
    node, found = FakeNode(), []
    async with MemoryBus(pipeline(any=node), settings=settings) as bus:
        busy = keep_busy(bus.source, bus)
        for takes_s, seconds in phases:
            node.takes_s = takes_s
            for _ in range(seconds * 50):
                next(busy)
                await asyncio.sleep(0.02)
                assert bus.dispatcher.slots.running <= settings.admission.max_in_flight
            found.append(bus.dispatcher.slots.limit)
        bus.source._records.clear()
    assert node.highest <= settings.admission.max_in_flight
    return found


SLOW_ALLOWED: dict[str, Any] = {"total_timeout_ms": 1000, "stage_timeouts_ms": {"processing": 500}}


async def test_a_slow_dependency_is_not_throttled() -> None:
    """A dependency that becomes ten times slower at any concurrency keeps the limit after one short trial."""
    settings = Settings.model_validate({"admission": {"max_in_flight": 32}, "pipeline": SLOW_ALLOWED})
    assert await limits_while_slow(settings, (0.02, 2), (0.2, 6), (0.02, 3)) == [32, 32, 32]


async def test_the_concurrency_limit_can_be_fixed() -> None:
    """With adaptive_limit off the limit is max_in_flight."""
    options = {"max_in_flight": 32, "adaptive_limit": False}
    settings = Settings.model_validate({"admission": options, "pipeline": SLOW_ALLOWED})
    assert await limits_while_slow(settings, (0.02, 1), (0.2, 10)) == [32, 32]


class Noting(ConcurrencyLimiter):
    """Records which samples are drops."""

    def __init__(self) -> None:
        super().__init__(LimiterPolicy(max_limit=32))
        self.seen: Counter[bool] = Counter()

    def record(self, now: float, *, dropped: bool, **figures: Any) -> ControlChange | None:
        self.seen[dropped] += 1
        return super().record(now, dropped=dropped, **figures)


@pytest.mark.interpreted
@pytest.mark.parametrize("total_ms", [250, 300, 310, 700])
async def test_every_timeout_counts_for_the_concurrency_limit(total_ms: int) -> None:
    """A late query with its whole budget is a drop, despite rounding errors of floats."""
    limits = {"total_timeout_ms": total_ms, "stage_timeouts_ms": {"processing": 2 * total_ms}}
    settings = Settings.model_validate({"pipeline": limits, **FIXED})
    async with MemoryBus(pipeline(any=FakeNode(10)), settings=settings) as bus:
        bus.dispatcher.slots._limiter = noting = Noting()
        await asyncio.sleep(0.0123)
        await ask_in_turn(bus, 15)
    assert noting.seen == {True: 15}
