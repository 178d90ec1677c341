"""Lanes: which one gets the next free slot."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fivestage.core.admission.lanes import LaneQueues, LaneShares

NINE_TO_ONE = LaneShares({"interactive": 0.9, "bulk": 0.1})


def room_of(shares: LaneShares, *lanes: str) -> LaneQueues[str]:
    """Build queues with one item per named lane, in this order."""
    room: LaneQueues[str] = LaneQueues(shares)
    for place, lane in enumerate(lanes):
        room.put(lane, f"{lane}{place}")
    return room


class Slots:
    """Slots that are never free while something waits."""

    def __init__(self, shares: LaneShares, size: int) -> None:
        self.room: LaneQueues[int] = LaneQueues(shares)
        self.running: Counter[str] = Counter()
        self.size = size

    def want(self, *lanes: str, count: int = 1000) -> None:
        """Add many waiting items to these lanes, and fill the slots."""
        for number in range(count):
            for lane in lanes:
                self.room.put(lane, number)
        self.fill()

    def fill(self) -> None:
        """Give free slots to waiting items."""
        while self.running.total() < self.size and (taken := self.room.take(self.running)):
            self.running[taken[0]] += 1

    def release(self, lane: str) -> None:
        """End one item of *lane* and give its slot away."""
        self.running[lane] -= 1
        self.fill()

    def churn(self, random: Random, count: int) -> None:
        """Free slots at random."""
        for _ in range(count):
            self.release(random.choice(list(self.running.elements())))


# Weights


def test_weights() -> None:
    """A named lane has its share; an unnamed one the smallest share, or 1 without any."""
    assert [NINE_TO_ONE.weight(lane) for lane in ("interactive", "bulk", "unheard of")] == [0.9, 0.1, 0.1]
    assert LaneShares({}).weight("any") == 1.0


def test_shares_do_not_change_afterwards() -> None:
    """The weights are a copy."""
    given = {"interactive": 0.9}
    shares = LaneShares(given)
    given["interactive"] = -1.0
    assert shares.weight("interactive") == 0.9


# The next lane


def test_empty_queues_return_none() -> None:
    """Taking from empty queues, new or emptied, returns None."""
    room = room_of(NINE_TO_ONE, "bulk")
    room.take({})
    assert room.take({}) is None
    assert LaneQueues[str](NINE_TO_ONE).take({"bulk": 1}) is None
    assert (len(room), tuple(room._queues), bool(room)) == (0, (), False)


def test_first_in_first_out_within_a_lane() -> None:
    """A single lane is a plain queue."""
    room = room_of(NINE_TO_ONE, "bulk", "bulk", "bulk")
    assert [room.take({"bulk": n, "interactive": 0}) for n in (9, 10, 11)] == [
        ("bulk", "bulk0"),
        ("bulk", "bulk1"),
        ("bulk", "bulk2"),
    ]


@pytest.mark.parametrize(
    ("running", "served"),
    [
        pytest.param({"interactive": 8, "bulk": 1}, "interactive", id="8/0.9 < 1/0.1"),
        pytest.param({"interactive": 9}, "bulk", id="not named as running: nothing runs"),
        pytest.param({"interactive": 19, "bulk": 2}, "bulk", id="19/0.9 > 2/0.1"),
        pytest.param({"interactive": 17, "bulk": 2}, "interactive", id="17/0.9 < 2/0.1"),
        pytest.param({"interactive": 17, "bulk": 2, "idle": 0}, "interactive", id="idle lanes have no say"),
    ],
)
def test_the_lane_that_uses_least_of_its_weight(running: dict[str, int], served: str) -> None:
    """The slot goes to the lane with the fewest running per weight, whatever the order of arrival."""
    for order in (("interactive", "bulk"), ("bulk", "interactive")):
        taken = room_of(NINE_TO_ONE, *order).take(running)
        assert taken is not None
        assert taken[0] == served


def test_equals_take_turns() -> None:
    """Among equals the lane that waited longest is next: a long queue does not block a short one."""
    room = room_of(LaneShares({}), "a", "a", "a", "a", "b", "c", "c")
    taken = [room.take({}) for _ in range(7)]
    assert [item for _, item in filter(None, taken)] == ["a0", "b4", "c5", "a1", "c6", "a2", "a3"]


def test_a_lane_that_comes_back_waits_from_then_on() -> None:
    """A lane whose queue was empty is queued after the lanes that wait."""
    room = room_of(LaneShares({}), "a", "b", "c")
    room.take({})
    room.put("a", "again")
    assert tuple(room._queues) == ("b", "c", "a")


# Shares under load


@pytest.mark.parametrize("size", [10, 30, 64, 256])
@pytest.mark.parametrize("seed", range(3))
def test_under_saturation_the_slots_settle_at_the_shares(size: int, seed: int) -> None:
    """Two saturated lanes have 90 % and 10 % of the slots, give or take one, at every moment."""
    slots = Slots(NINE_TO_ONE, size)
    slots.want("bulk", "interactive", count=5000)
    random = Random(seed)  # noqa: S311
    for _ in range(4000):
        assert abs(slots.running["interactive"] - 0.9 * size) <= 1
        assert slots.running.total() == size
        slots.churn(random, 1)


@pytest.mark.parametrize("lane", ["interactive", "bulk"])
def test_an_idle_share_is_used(lane: str) -> None:
    """A single lane may use all slots, however small its share."""
    slots = Slots(NINE_TO_ONE, 20)
    slots.want(lane)
    slots.churn(Random(1), 100)  # noqa: S311
    assert slots.running == {lane: 20}


@pytest.mark.parametrize(
    ("back", "borrower", "share"), [("interactive", "bulk", 18), ("bulk", "interactive", 2)]
)
def test_a_lane_that_comes_back_has_its_share_at_once(back: str, borrower: str, share: int) -> None:
    """A returning lane gets every freed slot until it has its share."""
    slots = Slots(NINE_TO_ONE, 20)
    slots.want(borrower)
    slots.want(back)
    for release in range(share):
        assert slots.running[back] == release
        slots.release(borrower)
    assert slots.running == {back: share, borrower: 20 - share}


def test_unnamed_lanes_get_the_smallest_share() -> None:
    """Each unnamed lane gets the smallest share; without shares all are equal."""
    slots = Slots(LaneShares({"interactive": 0.8, "bulk": 0.1}), 20)
    slots.want("interactive", "bulk", "invented")
    assert slots.running == {"interactive": 16, "bulk": 2, "invented": 2}
    equal = Slots(LaneShares({}), 20)
    equal.want("a", "b", "c", "d")
    assert set(equal.running.values()) == {5}


# Removal


def test_remove_if_keeps_the_order() -> None:
    """Items are removed lane by lane, oldest first; the others keep their order, empty lanes are dropped."""
    room = room_of(LaneShares({}), "a", "b", "a", "c", "a", "b")
    assert room.remove_if(lambda item: item in {"a4", "a0", "c3", "b1"}) == ["a0", "a4", "b1", "c3"]
    assert (len(room), tuple(room._queues), len(room._queues["a"]), "c" in room._queues) == (
        2,
        ("a", "b"),
        1,
        False,
    )
    assert [room.take({}), room.take({}), room.take({})] == [("a", "a2"), ("b", "b5"), None]


def test_a_single_item_is_removed() -> None:
    """A single item is removed at any place; an empty lane is dropped; an unknown item raises."""
    room: LaneQueues[str] = LaneQueues(LaneShares({}))
    items = [f"{lane}{place}" for place, lane in enumerate("aaab")]
    for item in items:
        room.put(item[0], item)
    room.remove("a", items[1])
    room.remove("b", items[3])
    assert (len(room), tuple(room._queues), len(room._queues["a"])) == (2, ("a",), 2)
    with pytest.raises(KeyError):
        room.remove("a", items[1])
    assert [room.take({}), room.take({}), room.take({})] == [("a", "a0"), ("a", "a2"), None]


def test_a_predicate_that_raises_changes_nothing() -> None:
    """A predicate that raises removes nothing."""
    room = room_of(LaneShares({}), "a", "a", "b")

    def broken(item: str) -> bool:
        if item == "b2":
            raise LookupError(item)
        return True

    with pytest.raises(LookupError):
        room.remove_if(broken)
    assert (len(room), len(room._queues["a"]), len(room._queues["b"])) == (3, 2, 1)


def test_repr() -> None:
    """repr() shows the waiting items."""
    assert repr(room_of(NINE_TO_ONE, "a", "b", "a")) == "<LaneQueues a=2, b=1>"
    assert repr(room_of(NINE_TO_ONE)) == "<LaneQueues empty>"


class RoomMachine(RuleBasedStateMachine):
    """Items are added, taken and removed; the model is one list and a clock."""

    lane_names = ("interactive", "bulk", "x", "y")

    def __init__(self) -> None:
        super().__init__()
        self.room: LaneQueues[int] = LaneQueues(NINE_TO_ONE)
        self.items: list[tuple[str, int]] = []
        self.since: dict[str, int] = {}
        self.clock = 0

    @rule(lane=st.sampled_from(lane_names))
    def put(self, lane: str) -> None:
        """Add an item."""
        self.clock += 1
        if lane not in {waiting for waiting, _ in self.items}:
            self.since[lane] = self.clock
        self.items.append((lane, self.clock))
        self.room.put(lane, self.clock)

    @precondition(lambda self: self.items)
    @rule(running=st.dictionaries(st.sampled_from(lane_names), st.integers(0, 10)))
    def take(self, running: dict[str, int]) -> None:
        """Take an item for a free slot."""
        self.clock += 1
        ranks = {
            lane: (running.get(lane, 0) / (0.9 if lane == "interactive" else 0.1), self.since[lane])
            for lane, _ in self.items
        }
        lane = min(ranks, key=lambda lane: ranks[lane])
        expected = next(item for item in self.items if item[0] == lane)
        assert self.room.take(running) == expected
        self.items.remove(expected)
        self.since[lane] = self.clock

    @rule(divisor=st.integers(1, 4))
    def remove(self, divisor: int) -> None:
        """Remove some items, or all."""
        expected = [item for lane in self.room._queues for name, item in self.items if name == lane]
        removed = self.room.remove_if(lambda item: item % divisor == 0)
        assert removed == [item for item in expected if item % divisor == 0]
        self.items = [(lane, item) for lane, item in self.items if item % divisor]

    @invariant()
    def agrees_with_the_model(self) -> None:
        """Every figure matches the list."""
        counts = Counter(lane for lane, _ in self.items)
        assert len(self.room) == len(self.items)
        assert list(self.room._queues) == sorted(counts, key=lambda lane: self.since[lane])
        assert {lane: len(self.room._queues.get(lane, ())) for lane in self.lane_names} == {
            lane: counts[lane] for lane in self.lane_names
        }


TestRoomMachine: Any = RoomMachine.TestCase
TestRoomMachine.__doc__ = "The room does what a list searched from end to end does, whatever happens."
TestRoomMachine.settings = hypothesis.settings(max_examples=60, stateful_step_count=40)
