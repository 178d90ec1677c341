"""Lanes: who gets the next free slot."""

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
    """A room in which one of each of these lanes waits, in this order, named after lane and place."""
    room: LaneQueues[str] = LaneQueues(shares)
    for place, lane in enumerate(lanes):
        room.put(lane, f"{lane}{place}")
    return room


class Slots:
    """A number of slots that are never free while something waits."""

    def __init__(self, shares: LaneShares, size: int) -> None:
        self.room: LaneQueues[int] = LaneQueues(shares)
        self.running: Counter[str] = Counter()
        self.size = size

    def want(self, *lanes: str, count: int = 1000) -> None:
        """Let many of these lanes wait, and fill the slots."""
        for number in range(count):
            for lane in lanes:
                self.room.put(lane, number)
        self.fill()

    def fill(self) -> None:
        """Give away free slots."""
        while self.running.total() < self.size and (taken := self.room.take(self.running)):
            self.running[taken[0]] += 1

    def release(self, lane: str) -> None:
        """One of *lane* ends; its slot is given away."""
        self.running[lane] -= 1
        self.fill()

    def churn(self, random: Random, count: int) -> None:
        """Slots become free at random."""
        for _ in range(count):
            self.release(random.choice(list(self.running.elements())))


# Weights


def test_weights() -> None:
    """A named lane has its share; one not named the smallest there is, or 1 where none is named."""
    assert [NINE_TO_ONE.weight(lane) for lane in ("interactive", "bulk", "unheard of")] == [0.9, 0.1, 0.1]
    assert LaneShares({}).weight("any") == 1.0


def test_shares_do_not_change_afterwards() -> None:
    """The weights are a copy."""
    given = {"interactive": 0.9}
    shares = LaneShares(given)
    given["interactive"] = -1.0
    assert shares.weight("interactive") == 0.9


# Who is next


def test_an_empty_room_has_nobody() -> None:
    """Taking from an empty room, new or emptied, gives None."""
    room = room_of(NINE_TO_ONE, "bulk")
    room.take({})
    assert room.take({}) is None
    assert LaneQueues[str](NINE_TO_ONE).take({"bulk": 1}) is None
    assert (len(room), tuple(room._queues), bool(room)) == (0, (), False)


def test_first_in_first_out_within_a_lane() -> None:
    """A lane alone is a plain queue, whatever runs."""
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
    """The slot goes to the lane whose running by weight is lowest, whoever came first."""
    for order in (("interactive", "bulk"), ("bulk", "interactive")):
        taken = room_of(NINE_TO_ONE, *order).take(running)
        assert taken is not None
        assert taken[0] == served


def test_equals_take_turns() -> None:
    """Among equals the lane that has waited longest is next: a long line does not keep out a short one."""
    room = room_of(LaneShares({}), "a", "a", "a", "a", "b", "c", "c")
    taken = [room.take({}) for _ in range(7)]
    assert [item for _, item in filter(None, taken)] == ["a0", "b4", "c5", "a1", "c6", "a2", "a3"]


def test_a_lane_that_comes_back_waits_from_then_on() -> None:
    """A lane served to its end has no claim from before: its turn comes after that of those who wait."""
    room = room_of(LaneShares({}), "a", "b", "c")
    room.take({})
    room.put("a", "again")
    assert tuple(room._queues) == ("b", "c", "a")


# Shares under load


@pytest.mark.parametrize("size", [10, 30, 64, 256])
@pytest.mark.parametrize("seed", range(3))
def test_under_saturation_the_slots_settle_at_the_shares(size: int, seed: int) -> None:
    """With both lanes always waiting, 90 % and 10 % of the slots, give or take one, at every moment."""
    slots = Slots(NINE_TO_ONE, size)
    slots.want("bulk", "interactive", count=5000)
    random = Random(seed)  # noqa: S311
    for _ in range(4000):
        assert abs(slots.running["interactive"] - 0.9 * size) <= 1
        assert slots.running.total() == size
        slots.churn(random, 1)


@pytest.mark.parametrize("lane", ["interactive", "bulk"])
def test_an_idle_share_is_used(lane: str) -> None:
    """A lane that is alone has all slots, be its share ever so small."""
    slots = Slots(NINE_TO_ONE, 20)
    slots.want(lane)
    slots.churn(Random(1), 100)  # noqa: S311
    assert slots.running == {lane: 20}


@pytest.mark.parametrize(
    ("back", "borrower", "share"), [("interactive", "bulk", 18), ("bulk", "interactive", 2)]
)
def test_a_lane_that_comes_back_has_its_share_at_once(back: str, borrower: str, share: int) -> None:
    """It is served until it has its share: within as many releases as its share has slots."""
    slots = Slots(NINE_TO_ONE, 20)
    slots.want(borrower)
    slots.want(back)
    for release in range(share):
        assert slots.running[back] == release
        slots.release(borrower)
    assert slots.running == {back: share, borrower: 20 - share}


def test_lanes_not_named_share_like_the_smallest() -> None:
    """Who invents lanes gets the smallest share for each, and with no shares all are equal."""
    slots = Slots(LaneShares({"interactive": 0.8, "bulk": 0.1}), 20)
    slots.want("interactive", "bulk", "invented")
    assert slots.running == {"interactive": 16, "bulk": 2, "invented": 2}
    equal = Slots(LaneShares({}), 20)
    equal.want("a", "b", "c", "d")
    assert set(equal.running.values()) == {5}


# Taking out


def test_remove_if_takes_out_in_order() -> None:
    """Lane by lane, the oldest first; the others keep their order, and an emptied lane is gone."""
    room = room_of(LaneShares({}), "a", "b", "a", "c", "a", "b")
    assert room.remove_if(lambda item: item in {"a4", "a0", "c3", "b1"}) == ["a0", "a4", "b1", "c3"]
    assert (len(room), tuple(room._queues), len(room._queues["a"]), "c" in room._queues) == (
        2,
        ("a", "b"),
        1,
        False,
    )
    assert [room.take({}), room.take({}), room.take({})] == [("a", "a2"), ("b", "b5"), None]


def test_one_is_taken_out() -> None:
    """Wherever it stands in its line; an emptied lane is gone, and what does not wait is an error."""
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
    """Nothing is lost to an error: what was looked at before it still waits."""
    room = room_of(LaneShares({}), "a", "a", "b")

    def broken(item: str) -> bool:
        if item == "b2":
            raise LookupError(item)
        return True

    with pytest.raises(LookupError):
        room.remove_if(broken)
    assert (len(room), len(room._queues["a"]), len(room._queues["b"])) == (3, 2, 1)


def test_repr() -> None:
    """It shows who waits."""
    assert repr(room_of(NINE_TO_ONE, "a", "b", "a")) == "<LaneQueues a=2, b=1>"
    assert repr(room_of(NINE_TO_ONE)) == "<LaneQueues empty>"


class RoomMachine(RuleBasedStateMachine):
    """Items come, are taken and are taken out; the model is one list and a clock."""

    lane_names = ("interactive", "bulk", "x", "y")

    def __init__(self) -> None:
        super().__init__()
        self.room: LaneQueues[int] = LaneQueues(NINE_TO_ONE)
        self.items: list[tuple[str, int]] = []
        self.since: dict[str, int] = {}
        self.clock = 0

    @rule(lane=st.sampled_from(lane_names))
    def put(self, lane: str) -> None:
        """One more waits."""
        self.clock += 1
        if lane not in {waiting for waiting, _ in self.items}:
            self.since[lane] = self.clock
        self.items.append((lane, self.clock))
        self.room.put(lane, self.clock)

    @precondition(lambda self: self.items)
    @rule(running=st.dictionaries(st.sampled_from(lane_names), st.integers(0, 10)))
    def take(self, running: dict[str, int]) -> None:
        """A slot is free."""
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
        """Some are taken out, or all."""
        expected = [item for lane in self.room._queues for name, item in self.items if name == lane]
        removed = self.room.remove_if(lambda item: item % divisor == 0)
        assert removed == [item for item in expected if item % divisor == 0]
        self.items = [(lane, item) for lane, item in self.items if item % divisor]

    @invariant()
    def agrees_with_the_model(self) -> None:
        """Every figure is what the list says."""
        counts = Counter(lane for lane, _ in self.items)
        assert len(self.room) == len(self.items)
        assert list(self.room._queues) == sorted(counts, key=lambda lane: self.since[lane])
        assert {lane: len(self.room._queues.get(lane, ())) for lane in self.lane_names} == {
            lane: counts[lane] for lane in self.lane_names
        }


TestRoomMachine: Any = RoomMachine.TestCase
TestRoomMachine.__doc__ = "The room does what a list searched from end to end does, whatever happens."
TestRoomMachine.settings = hypothesis.settings(max_examples=60, stateful_step_count=40)
