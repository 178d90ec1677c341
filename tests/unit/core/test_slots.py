"""The slots."""

from __future__ import annotations

from fivestage.core.admission.concurrency_limit import ConcurrencyLimiter, LimiterPolicy
from fivestage.core.admission.lanes import LaneShares
from fivestage.core.admission.slots import Slots
from fivestage.core.observer import ControlChange


def slots_of(limit: int, **shares: float) -> Slots[str]:
    """Build slots with a fixed limit."""
    return Slots(ConcurrencyLimiter(LimiterPolicy(max_limit=limit, min_limit=limit)), LaneShares(shares))


def test_a_new_query_does_not_overtake_waiting_ones() -> None:
    """A freed slot goes to a waiting query before a new one."""
    slots = slots_of(2)
    assert slots.is_free
    slots.occupy("a", 0.0)
    slots.occupy("a", 0.0)
    assert not slots.is_free
    slots.wait("a", "first")
    slots.release("a")
    assert not slots.is_free
    assert (slots.next(), slots.is_free) == ("first", True)
    assert (slots.next(), slots.waiting) == (None, 0)


def test_no_slot_beyond_the_limit() -> None:
    """A waiting query gets a slot only while fewer than the limit run."""
    slots = slots_of(1)
    slots.wait("a", "x")
    slots.wait("a", "y")
    assert slots.next() == "x"
    slots.occupy("a", 0.0)
    assert slots.next() is None
    assert repr(slots) == "<Slots 1 of 1 taken, 1 waiting>"
    slots.release("a")
    assert (slots.next(), slots.running, slots._running["a"]) == ("y", 0, 0)


def test_no_slot_while_too_many_bytes_are_held() -> None:
    """Unpublished answers over their byte limit keep waiting queries from starting."""
    slots: Slots[str] = Slots(
        ConcurrencyLimiter(LimiterPolicy(max_limit=10, min_limit=10)), LaneShares({}), max_held_bytes=100
    )
    slots.hold(99)
    assert slots.is_free
    slots.hold(50)
    assert not slots.is_free
    slots.wait("a", "x")
    assert slots.next() is None
    assert not slots.let_go(30)
    assert slots.let_go(30)
    assert (slots.next(), slots.held_bytes) == ("x", 89)


def test_bytes_of_input_and_of_events_count_together() -> None:
    """Queries and answers count together; over the limit reading stops, but queries already read may run."""
    slots: Slots[str] = Slots(
        ConcurrencyLimiter(LimiterPolicy(max_limit=10, min_limit=10)), LaneShares({}), max_held_bytes=100
    )
    slots.input_bytes += 60
    slots.hold(39)
    assert slots.has_memory
    slots.input_bytes += 100
    assert not slots.has_memory
    assert slots.is_free
    slots.input_bytes -= 160
    slots.hold(61)
    assert not slots.has_memory
    slots.let_go(61)
    assert slots.has_memory


def test_slots_by_lane() -> None:
    """The next slot goes to the lane that uses the smallest part of its share."""
    slots = slots_of(10, a=0.5, b=0.5)
    for lane in "aab":
        slots.occupy(lane, 0.0)
    slots.wait("a", "of a")
    slots.wait("b", "of b")
    assert (slots._running["a"], slots._running["b"]) == (2, 1)
    assert slots.next() == "of b"


def test_giving_up() -> None:
    """Expired queries leave the queue; the others keep their places."""
    slots = slots_of(1)
    assert slots.give_up(lambda _: True) == []
    slots.occupy("a", 0.0)
    for item in ("a1", "b1", "a2"):
        slots.wait(item[0], item)
    assert slots.give_up(lambda item: item == "a1") == ["a1"]
    assert slots.waiting == 2
    slots.release("a")
    assert [slots.next(), slots.next(), slots.next()] == ["a2", "b1", None]


def test_samples_of_the_limiter() -> None:
    """A sample has the concurrency at start and end, the query included, and whether others wait."""
    limiter = ConcurrencyLimiter(LimiterPolicy(max_limit=8, window_s=0, window_samples=1))
    slots: Slots[str] = Slots(limiter, LaneShares({}))
    assert [slots.occupy("a", 0.0) for _ in range(8)] == [1, 2, 3, 4, 5, 6, 7, 8]
    slots.wait("a", "next")
    for _ in range(8):
        assert slots.learn(0.1, duration_s=0.1, started_among=1, dropped=False) is None
    assert "limit=8 in 4..8 latency=100.0 ms normal=100.0 ms" in repr(limiter)
    for at in (1.0, 1.3, 1.5):
        slots.learn(at, duration_s=0.5, started_among=8, dropped=True)
    assert slots.limit == 4


def test_a_change_of_the_limit_is_returned() -> None:
    """A change of the limit is returned by the call that learned it."""
    limiter = ConcurrencyLimiter(LimiterPolicy(max_limit=8))
    slots: Slots[str] = Slots(limiter, LaneShares({}))
    limiter._move(4, 0.0)
    slots.occupy("a", 100.0)
    change = slots.learn(100.1, duration_s=0.1, started_among=1, dropped=False)
    assert change == ControlChange("concurrency_limit", "raised", "4 -> 8: nothing waited for 30 s")
