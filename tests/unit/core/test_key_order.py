"""Order by key."""

from __future__ import annotations

from collections import Counter
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fivestage.core.admission.key_order import KeyOrder


def waiting(order: KeyOrder[Any, Any]) -> int:
    """Return how many items wait, of all keys."""
    return sum(len(queue or ()) for queue in order._queues.values())


def test_one_of_a_key_at_a_time() -> None:
    """The first of a key starts, the others wait; each end starts the next, in order of arrival."""
    order: KeyOrder[bytes, int] = KeyOrder()
    assert [order.enter(b"k", number) for number in range(4)] == [True, False, False, False]
    assert waiting(order) == 3
    assert [order.leave(b"k") for _ in range(4)] == [1, 2, 3, None]
    assert waiting(order) == 0


def test_new_items_wait_behind_the_queue() -> None:
    """A new item does not overtake the queue, also when the queue has just become empty."""
    order: KeyOrder[bytes, str] = KeyOrder()
    order.enter(b"k", "a")
    order.enter(b"k", "b")
    assert order.leave(b"k") == "b"
    assert order.enter(b"k", "c") is False
    assert order.leave(b"k") == "c"


def test_keys_do_not_wait_for_each_other() -> None:
    """Another key starts at once, and so does the same key of another partition."""
    order: KeyOrder[tuple[str, int, bytes], str] = KeyOrder()
    keys = [("queries", 0, b"k"), ("queries", 0, b"l"), ("queries", 1, b"k"), ("others", 0, b"k")]
    assert all(order.enter(key, "item") for key in keys)
    assert (len(order._queues), waiting(order)) == (4, 0)


def test_without_a_key_there_is_no_order() -> None:
    """Without a key all start, none is stored, and none starts another."""
    order: KeyOrder[bytes, int] = KeyOrder()
    assert [order.enter(None, number) for number in range(3)] == [True, True, True]
    assert (len(order._queues), waiting(order), order.leave(None)) == (0, 0, None)


def test_an_empty_key_is_a_key() -> None:
    """The empty key is a key, as in Kafka: its records are in order."""
    order: KeyOrder[bytes, int] = KeyOrder()
    assert [order.enter(b"", number) for number in range(2)] == [True, False]


def test_falsy_items_keep_their_place() -> None:
    """Falsy items are queued like others."""
    order: KeyOrder[bytes, int] = KeyOrder()
    for item in (1, 0, 2):
        order.enter(b"k", item)
    assert [order.leave(b"k"), order.leave(b"k")] == [0, 2]


def test_ended_keys_are_forgotten() -> None:
    """Only keys in flight are stored: a million ended keys leave nothing."""
    order: KeyOrder[int, str] = KeyOrder()
    for key in range(1000):
        order.enter(key, "first")
        order.enter(key, "second")
        order.leave(key)
        order.leave(key)
    assert (len(order._queues), waiting(order)) == (0, 0)
    assert order.enter(0, "starts again") is True


def test_leaving_without_entering() -> None:
    """Leaving twice, or without having entered, raises."""
    order: KeyOrder[bytes, int] = KeyOrder()
    with pytest.raises(ValueError, match="b'k' is running"):
        order.leave(b"k")
    order.enter(b"k", 1)
    order.leave(b"k")
    with pytest.raises(ValueError, match="b'k' is running"):
        order.leave(b"k")


class OrderMachine(RuleBasedStateMachine):
    """Items of a few keys enter and leave; the model is one list in order of arrival."""

    keys: st.SearchStrategy[bytes | None] = st.sampled_from([None, b"", b"k", b"l"])

    def __init__(self) -> None:
        super().__init__()
        self.order: KeyOrder[bytes, int] = KeyOrder()
        self.present: list[tuple[bytes | None, int]] = []
        self.started: set[int] = set()
        self.arrivals = 0

    @rule(key=keys)
    def enter(self, key: bytes | None) -> None:
        """Enter an item, which starts if it is alone of its key or has none."""
        self.arrivals += 1
        alone = key is None or key not in {other for other, _ in self.present}
        assert self.order.enter(key, self.arrivals) is alone
        self.present.append((key, self.arrivals))
        if alone:
            self.started.add(self.arrivals)

    @precondition(lambda self: self.started)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        """Leave any running item; the oldest of its key is next."""
        ended = data.draw(st.sampled_from(sorted(self.started)))
        key = next(key for key, item in self.present if item == ended)
        self.present.remove((key, ended))
        self.started.remove(ended)
        line = [item for other, item in self.present if other == key and key is not None]
        assert self.order.leave(key) == (line[0] if line else None)
        self.started.update(line[:1])

    @invariant()
    def one_of_each_key_is_under_way(self) -> None:
        """Each key has exactly one running item while any is queued, and the figures agree."""
        keyed = [(key, item) for key, item in self.present if key is not None]
        under_way = Counter(key for key, item in keyed if item in self.started)
        assert under_way == dict.fromkeys((key for key, _ in keyed), 1)
        assert len(self.order._queues) == len(under_way)
        assert waiting(self.order) == len(keyed) - len(under_way)


TestOrderMachine: Any = OrderMachine.TestCase
TestOrderMachine.__doc__ = "The order is that of a list searched from end to end, whatever happens."
TestOrderMachine.settings = hypothesis.settings(max_examples=60, stateful_step_count=40)
