"""Which items form a batch, when it starts, and which items are dropped."""

from __future__ import annotations

from collections import Counter
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivestage.core.batch_cost import MIN_BATCHES
from fivestage.core.batch_queue import MARGIN, SLACK_S, BatchQueue

MAX_WAIT_S = 0.005


def queue_of(*deadlines: float, max_size: int = 4, took_s: float = 0.0) -> BatchQueue[float]:
    """Build a queue of items added at 0, named by their deadlines, whose batches take a time."""
    queue: BatchQueue[float] = BatchQueue(max_size, MAX_WAIT_S)
    for _ in range(MIN_BATCHES if took_s else 0):
        queue.cost.add(1, took_s)
    for deadline in deadlines:
        queue.put(deadline, deadline, 0.0)
    return queue


def test_nothing_is_due_without_items() -> None:
    """An empty queue starts no batch."""
    assert (queue_of().due_at, queue_of().hopeless_at, queue_of().take(1.0)) == (inf, inf, ([], []))


def test_a_full_batch_is_due_at_once() -> None:
    """With max_size items a batch starts now."""
    assert queue_of(1.0, 1.0, 1.0).due_at == MAX_WAIT_S
    assert queue_of(1.0, 1.0, 1.0, 1.0).due_at == -inf


def test_the_oldest_item_waits_for_max_wait() -> None:
    """The time counts from the item that waits longest; when that leaves, from the next."""
    queue = queue_of()
    first = queue.put(5.0, 5.0, 1.0)
    queue.put(4.0, 4.0, 2.0)
    assert queue.due_at == 1.0 + MAX_WAIT_S
    assert queue.remove(first)
    assert not queue.remove(first)
    assert queue.due_at == 2.0 + MAX_WAIT_S


def test_an_urgent_item_starts_the_batch() -> None:
    """The batch starts in time for the earliest deadline, as far as its duration is known."""
    queue = queue_of(0.9, 0.013, took_s=0.01)
    assert queue.due_at == pytest.approx(0.013 - MARGIN * 0.01 - SLACK_S)


def test_the_earliest_deadlines_come_first() -> None:
    """A batch has the most urgent items, in that order; the others stay."""
    queue = queue_of(3.0, 1.0, 5.0, 2.0, 4.0, max_size=3)
    assert queue.take(0.0) == ([1.0, 2.0, 3.0], [])
    assert queue.take(0.0) == ([4.0, 5.0], [])


def test_items_that_would_be_late_are_dropped() -> None:
    """What the batch would answer too late is not in it."""
    queue = queue_of(0.02, 0.06, 0.04, took_s=0.05)
    assert queue.take(0.0) == ([0.06], [0.02, 0.04])


def test_a_shorter_batch_may_still_be_in_time() -> None:
    """Each item that is dropped makes the batch shorter."""
    queue = queue_of(0.035, 0.035, 0.035, 0.035)
    for size in range(1, MIN_BATCHES + 1):
        queue.cost.add(size, 0.01 * size)
    assert queue.take(0.0) == ([0.035] * 3, [0.035])


def test_where_all_would_be_late_the_last_ones_are_tried() -> None:
    """A prediction that is too long corrects itself; what is late already is dropped all the same."""
    queue = queue_of(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, max_size=4, took_s=9.0)
    assert queue.take(0.35) == ([0.4, 0.5, 0.6], [0.1, 0.2, 0.3])
    assert queue.take(0.35) == ([], [])


def test_behind_a_running_batch_the_hopeless_ones_are_dropped() -> None:
    """Those that a batch of their own would answer too late, even if it started now."""
    queue = queue_of(0.05, 0.02, 0.03, took_s=0.01)
    assert queue.hopeless_at == pytest.approx(0.01)
    assert queue.drop_hopeless(0.005) == []
    assert queue.drop_hopeless(0.0201) == [0.02, 0.03]
    assert len(queue) == 1
    assert queue.hopeless_at == pytest.approx(0.04)


def test_lost_time_is_given_back() -> None:
    """All deadlines move by the same time; items can still be removed."""
    queue = queue_of(0.02, 0.03)
    number = queue.put(0.04, 0.04, 0.0)
    queue.postpone(0.1)
    assert queue.drop_hopeless(0.11) == []
    assert queue.remove(number)
    assert queue.take(0.11) == ([0.02, 0.03], [])


@given(
    st.integers(1, 8),
    st.lists(
        st.tuples(
            st.sampled_from(["put", "put", "remove", "take", "drop", "learn"]),
            st.floats(0, 0.05),
            st.floats(-0.01, 0.2),
        ),
        max_size=60,
    ),
)
def test_whatever_happens_no_item_is_lost_or_taken_twice(
    max_size: int, steps: list[tuple[str, float, float]]
) -> None:
    """Each item leaves once; a batch is in order, not too large, and has no item after its deadline."""
    queue: BatchQueue[tuple[float, int]] = BatchQueue(max_size, MAX_WAIT_S)
    left: Counter[tuple[float, int]] = Counter()
    numbers: dict[tuple[float, int], int] = {}
    now = 0.0
    for step, pause_s, value in steps:
        now += pause_s
        if step == "put":
            item = now + value, len(numbers)
            numbers[item] = queue.put(item, item[0], now)
        elif step == "remove" and numbers:
            item = list(numbers)[int(value * 1000) % len(numbers)]
            left[item] += queue.remove(numbers[item])
        elif step == "drop":
            dropped = queue.drop_hopeless(now)
            assert all(deadline <= now + queue.cost.certain_s(1) for deadline, _ in dropped)
            left.update(dropped)
        elif step == "learn":
            queue.cost.add(1 + int(pause_s * 100), abs(value))
        elif step == "take":
            size = len(queue)
            batch, hopeless = queue.take(now)
            assert batch == sorted(batch)
            assert len(batch) <= max_size
            assert all(deadline > now for deadline, _ in batch)
            assert all(deadline <= now for deadline, _ in hopeless) or batch
            assert len(queue) == size - len(batch) - len(hopeless)
            left.update(batch + hopeless)
        assert len(queue) == len(numbers) - left.total()
        assert set(left.values()) <= {0, 1}
        assert queue.due_at == inf if not queue else queue.due_at <= now + MAX_WAIT_S
