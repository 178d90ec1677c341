"""admission.ordering = key: equal keys run one after the other, and their results keep the order."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import pytest

from fivestage.core.ledger import MAX_IN_LINE, MAX_LINE_BYTES
from fivestage.core.records import Output
from fivestage.settings import DlqSettings, Settings
from fivestage.testing.memory import MemoryBus

from .samples import EPOCH, KEY, FakeNode, ends, finish, in_virtual_time, pipeline, query, statuses, timestamp


def by_key(**options: Any) -> Settings:
    """Settings with order by key."""
    admission = {"ordering": "key", "adaptive_limit": False, **options}
    return Settings.model_validate({"admission": admission, "adaptive": {"enabled": False}})


def answered(bus: MemoryBus) -> dict[bytes | None, list[str]]:
    """Return the ids of the results by key, in the order of publication."""
    found: dict[bytes | None, list[str]] = defaultdict(list)
    for record in bus.sink.of(Output.RESULTS):
        found[record.key].append(dict(record.headers)["ce_subject"].decode())
    return found


def at(seconds: float) -> str:
    """A deadline, on the virtual clock."""
    return datetime.fromtimestamp(EPOCH + seconds, UTC).isoformat()


async def settled(bus: MemoryBus, committed: int) -> None:
    """Nothing is in flight, and this many records may be committed."""
    assert await bus.dispatcher.drain(5.0)
    assert (bus.dispatcher.in_flight, bus.dispatcher.waiting, bus.dispatcher.slots.running) == (0, 0, 0)
    assert bus.ledger.committable() == {KEY: committed}


async def test_equal_keys_one_after_the_other() -> None:
    """Equal keys never overlap and keep their order; other keys run concurrently."""
    node = FakeNode(0.02)
    async with MemoryBus(pipeline(any=node), settings=by_key()) as bus:
        for number in range(10):
            bus.put(query(f"a{number}"), key=b"a")
        await asyncio.sleep(0.01)
        assert (bus.dispatcher.slots.running, bus.dispatcher.waiting) == (1, 9)
        await finish(bus, 10)
        assert asyncio.get_running_loop().time() == pytest.approx(0.2)
        await settled(bus, 10)
    assert node.highest == 1
    assert answered(bus) == {b"a": [f"a{number}" for number in range(10)]}


async def test_different_keys_at_the_same_time() -> None:
    """Ten keys of ten queries each take as long as one key, each in order."""
    node = FakeNode(0.02)
    async with MemoryBus(pipeline(any=node), settings=by_key()) as bus:
        for number in range(100):
            bus.put(query(f"q{number}"), key=b"%d" % (number % 10))
        await finish(bus, 100)
        assert asyncio.get_running_loop().time() == pytest.approx(0.2)
        await settled(bus, 100)
    assert node.highest == 10
    for key, found in answered(bus).items():
        assert found == [f"q{number}" for number in range(100) if b"%d" % (number % 10) == key]


async def test_equal_keys_of_two_partitions_are_two() -> None:
    """Equal keys of two partitions are not ordered: order is per partition, as in Kafka."""
    node = FakeNode(0.02)
    async with MemoryBus(pipeline(any=node), settings=by_key(), partitions=2) as bus:
        for partition in (0, 1):
            bus.put(query(f"q{partition}"), key=b"a", partition=partition)
        await finish(bus, 2)
    assert node.highest == 2


async def test_without_a_key_there_is_no_order() -> None:
    """Records without a key run concurrently, and the fastest is answered first."""
    slow, quick = FakeNode(0.05, intents={"slow"}), FakeNode(0.01, intents={"quick"})
    async with MemoryBus(pipeline(slow=slow, quick=quick), settings=by_key()) as bus:
        bus.put(query("a", "slow"))
        bus.put(query("b", "quick"))
        await finish(bus, 2)
        await settled(bus, 2)
    assert [result.query_id for result in bus.results()] == ["b", "a"]


async def test_the_default_is_unordered() -> None:
    """By default equal keys run concurrently."""
    node = FakeNode(0.02)
    async with MemoryBus(pipeline(any=node)) as bus:
        for number in range(4):
            bus.put(query(f"q{number}"), key=b"a")
        await finish(bus, 4)
    assert node.highest == 4


async def test_order_is_kept_whatever_the_outcomes() -> None:
    """Unreadable, expired, failed and successful queries of a key keep their order; none is lost."""
    nodes = {"any": FakeNode(0.01), "late": FakeNode(10, intents={"late"})}
    nodes["bad"] = FakeNode(0.01, fails=True, intents={"bad"})
    async with MemoryBus(pipeline(**nodes), settings=by_key()) as bus:
        values = [
            query("0", "late"),
            b'{"query_id":"1"}',
            query("2", deadline="2020-01-01T00:00:00Z"),
            b"{",
            query("4", "bad"),
            query("5"),
            query("6", "late"),
            query("7", "unknown"),
            query("8"),
        ]
        for value in values:
            bus.put(value, key=b"a")
        await finish(bus, 8)
        await settled(bus, 9)
    assert answered(bus) == {b"a": list("20145678")}  # expired queries wait for no other
    assert statuses(bus) == {"timeout": 2, "error": 3, "expired": 1, "success": 2}
    assert len(bus.sink.of(Output.DEAD_LETTERS)) == 2
    assert max(node.highest for node in nodes.values()) == 1


async def test_a_query_behind_its_key_expires_at_its_deadline() -> None:
    """A query that expires behind another of its key is answered at its deadline and never runs."""
    node = FakeNode(0.1)
    async with MemoryBus(pipeline(any=node), settings=by_key()) as bus:
        in_virtual_time(bus)
        for name, deadline in (("a0", None), ("a1", 0.05), ("a2", None), ("a3", 0.15)):
            bus.put(query(name, **({} if deadline is None else {"deadline": at(deadline)})), key=b"a")
        for count, seconds in ((1, 0.05), (2, 0.1), (3, 0.15), (4, 0.2)):
            await finish(bus, count)
            assert asyncio.get_running_loop().time() == pytest.approx(seconds, abs=0.001)
        await settled(bus, 4)
    assert answered(bus) == {b"a": ["a1", "a0", "a3", "a2"]}
    assert statuses(bus) == {"success": 2, "expired": 2}
    assert node.calls == ["a0", "a2"]


async def test_expired_queries_do_not_block_their_key() -> None:
    """Five thousand queries that expired behind one key are skipped when their turn comes."""
    node = FakeNode(0.1)
    async with MemoryBus(pipeline(any=node), settings=by_key(query_ttl_ms=40)) as bus:
        in_virtual_time(bus)
        bus.put(query("first"), key=b"a")
        for number in range(800):
            bus.put(query(f"q{number}"), key=b"a", timestamp=timestamp())
        await asyncio.sleep(0.05)
        assert (bus.dispatcher.in_flight, bus.dispatcher.key_lines.length) == (1, 0)
        bus.put(query("last"), key=b"a")
        await finish(bus, 802)
        await settled(bus, 802)
    assert statuses(bus) == {"success": 2, "expired": 800}
    assert node.calls == ["first", "last"]


async def test_a_drain_does_not_answer_early_what_it_leaves() -> None:
    """A drain leaves waiting queries of a key to the next owner, also past their deadlines."""
    node = FakeNode(0.1)
    async with MemoryBus(pipeline(any=node), settings=by_key()) as bus:
        in_virtual_time(bus)
        for name, deadline in (("a0", 5.0), ("a1", 5.0), ("a2", 0.05)):
            bus.put(query(name, deadline=at(deadline)), key=b"a")
        await asyncio.sleep(0.01)
        assert await bus.dispatcher.drain(1.0)
        await asyncio.sleep(1)
        assert (bus.dispatcher.in_flight, bus.dispatcher.key_lines.length) == (0, 0)
        assert bus.ledger.committable() == {KEY: 1}
    assert set(ends(bus)) == {b"a0"}


async def test_a_hot_key_stops_no_other_partition() -> None:
    """Any number of queries behind one key does not delay another partition's next query."""
    node = FakeNode(0.1)
    async with MemoryBus(pipeline(any=node), settings=by_key(), partitions=2) as bus:
        for number in range(5000):
            bus.put(query(f"h{number}"), key=b"hot")
        bus.put(query("cold"), key=b"cold", partition=1)
        while bus.result("cold") is None:
            await bus.sink.published()
        assert asyncio.get_running_loop().time() == pytest.approx(0.1)
        assert bus.dispatcher.key_lines.length <= 2 * MAX_IN_LINE
        await asyncio.sleep(3.0)
        bus.put(query("late"), key=b"cold", partition=1)
        while bus.result("late") is None:
            await bus.sink.published()
        assert asyncio.get_running_loop().time() == pytest.approx(3.2)
        assert not bus.source.paused


async def test_large_records_in_line_are_bounded_by_their_bytes() -> None:
    """Large records behind a key count by their bytes; other partitions are still read."""
    node = FakeNode(0.1)
    async with MemoryBus(pipeline(any=node), settings=by_key(), partitions=2) as bus:
        for number in range(600):
            bus.put(query(f"h{number}", context={"text": "x" * 200_000}), key=b"hot")
        bus.put(query("cold"), key=b"cold", partition=1)
        await finish(bus, 2)
        assert bus.result("cold") is not None
        assert bus.dispatcher.slots.input_bytes <= MAX_LINE_BYTES // 2 + 2 * 1_048_576


async def test_order_while_slots_are_short() -> None:
    """Equal keys keep their order and never overlap while keys wait for slots."""
    node = FakeNode(0.02)
    async with MemoryBus(pipeline(any=node), settings=by_key(max_in_flight=3)) as bus:
        for number in range(60):
            bus.put(query(f"q{number}"), key=b"%d" % (number % 7 % 5))
        await finish(bus, 60)
        await settled(bus, 60)
    assert node.highest == 3
    for found in answered(bus).values():
        assert found == sorted(found, key=lambda name: int(name[1:]))


async def test_the_commit_is_the_contiguous_prefix() -> None:
    """Later records of other keys end first and are committed only behind the earlier ones."""
    slow, quick = FakeNode(0.05, intents={"slow"}), FakeNode(0.001, intents={"quick"})
    async with MemoryBus(pipeline(slow=slow, quick=quick), settings=by_key()) as bus:
        for number in range(2):
            bus.put(query(f"slow{number}", "slow"), key=b"slow")
        for number in range(5):
            bus.put(query(f"quick{number}", "quick"), key=b"quick")
        await finish(bus, 5)
        await asyncio.sleep(0)
        assert bus.ledger.committable() == {}
        await finish(bus, 6)
        await asyncio.sleep(0)
        assert bus.ledger.committable() == {KEY: 1}
        await finish(bus, 7)
        await settled(bus, 7)


async def test_a_drain_puts_back_what_waits_behind_a_key() -> None:
    """Queries that wait at a drain are neither started nor committed, and nothing stays in flight.

    Except before an answered record: the next owner would answer that one again.
    """
    node = FakeNode(0.05)
    async with MemoryBus(pipeline(any=node), settings=by_key(max_in_flight=2)) as bus:
        for name in ("a0", "a1", "b0", "b1", "c0", "c1", "a2"):  # c0 waits for a slot, the others for a key
            bus.put(query(name), key=name[:1].encode())
        bus.put(query("free"))
        await asyncio.sleep(0.01)
        assert (bus.dispatcher.slots.running, bus.dispatcher.waiting) == (2, 6)
        assert await bus.dispatcher.drain(1.0)
        await asyncio.sleep(1)
        assert (bus.dispatcher.in_flight, bus.dispatcher.waiting) == (0, 0)
        assert (bus.ledger.in_flight(), bus.ledger.committable()) == (0, {KEY: 3})
        assert bus.dispatcher.key_lines._order is not None
        assert not bus.dispatcher.key_lines._order._queues
    assert node.calls == ["a0", "b0", "a1"]
    assert set(ends(bus)) == {b"a0", b"b0", b"a1"}


async def test_a_revoked_partition_drops_its_key_queues() -> None:
    """After a revocation the same records, fetched again, are answered once each and in order."""
    node, keys = FakeNode(0.05), frozenset({KEY})
    async with MemoryBus(pipeline(any=node), settings=by_key(), partitions=2) as bus:
        for number in range(4):
            bus.put(query(f"a{number}"), key=b"a")
            bus.put(query(f"b{number}"), key=b"a", partition=1)
        await asyncio.sleep(0.01)
        assert await bus.dispatcher.drain(1.0, keys)
        assert bus.ledger.committable() == {KEY: 1, KEY._replace(partition=1): 1}
        bus.ledger.revoke(keys)
        bus.ledger.assign(keys)
        bus._next_offsets[0] = 1
        for number in range(1, 4):
            bus.put(query(f"a{number}"), key=b"a")
        await finish(bus, 8)
        assert await bus.dispatcher.drain(1.0)
        assert bus.ledger.committable() == {KEY: 4, KEY._replace(partition=1): 4}
        assert bus.dispatcher.in_flight == 0
    assert set(ends(bus).values()) == {1}
    order = answered(bus)[b"a"]
    assert [name for name in order if name[0] == "a"] == ["a0", "a1", "a2", "a3"]
    assert [name for name in order if name[0] == "b"] == ["b0", "b1", "b2", "b3"]


async def test_a_revocation_does_not_end_a_shutdown() -> None:
    """When a partition is revoked during a shutdown, no query of the others starts."""
    quick, slow = FakeNode(0.01, intents={"quick"}), FakeNode(0.05, intents={"slow"})
    async with MemoryBus(pipeline(quick=quick, slow=slow), settings=by_key(), partitions=2) as bus:
        for number in range(3):
            bus.put(query(f"a{number}", "quick"), key=b"a")
            bus.put(query(f"b{number}", "slow"), key=b"a", partition=1)
        await asyncio.sleep(0.005)
        shutdown = asyncio.create_task(bus.dispatcher.drain(1.0))
        await asyncio.sleep(0)
        assert await bus.dispatcher.drain(1.0, frozenset({KEY}))
        assert await shutdown
        await asyncio.sleep(1)
        assert (bus.ledger.in_flight(), bus.dispatcher.in_flight) == (0, 0)
    assert (quick.calls, slow.calls) == (["a0"], ["b0"])


async def test_nothing_overtakes_records_handed_back_by_a_drain() -> None:
    """Where a drain ends while a key's queue is handed back, the rest of it is handed back too."""
    node = FakeNode(0.05)
    async with MemoryBus(pipeline(any=node), settings=by_key()) as bus:
        for number in range(5):
            bus.put(query(f"a{number}"), key=b"a")
        await asyncio.sleep(0.01)
        draining = asyncio.create_task(bus.dispatcher.drain(1.0))
        await asyncio.sleep(0.04)
        while bus.ledger.in_flight() > 3:
            await asyncio.sleep(0)
        draining.cancel()
        await asyncio.sleep(1)
        assert (bus.ledger.in_flight(), bus.dispatcher.in_flight) == (0, 0)
        assert bus.ledger.committable() == {KEY: 1}
    assert node.calls == ["a0"]


async def test_a_partition_lost_without_a_drain() -> None:
    """After a loss without a drain, queries behind a key are dropped, not answered twice."""
    node, keys = FakeNode(0.05), frozenset({KEY})
    async with MemoryBus(pipeline(any=node), settings=by_key()) as bus:
        for number in range(4):
            bus.put(query(f"a{number}"), key=b"a")
        await asyncio.sleep(0.01)
        bus.ledger.revoke(keys)
        bus.ledger.assign(keys)
        bus._next_offsets[0] = 0
        for number in range(4):
            bus.put(query(f"a{number}"), key=b"a")
        await finish(bus, 4)
        await settled(bus, 4)
    assert answered(bus) == {b"a": ["a0", "a1", "a2", "a3"]}
    assert (node.highest, node.calls) == (1, ["a0", "a0", "a1", "a2", "a3"])


async def test_a_long_queue_does_not_exhaust_the_stack() -> None:
    """Five thousand unreadable records behind one key end without deep recursion."""
    settings = by_key()
    settings = settings.model_copy(update={"dlq": DlqSettings(max_consecutive=0, max_ratio=0)})
    async with MemoryBus(pipeline(any=FakeNode()), settings=settings) as bus:
        for number in range(5000):
            bus.put(b'{"query_id":"q%d"}' % number, key=b"a")
        await finish(bus, 5000)
        await settled(bus, 5000)
    assert answered(bus) == {b"a": [f"q{number}" for number in range(5000)]}
