"""The flood guard: when a partition halts, for how long, and when it resumes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivestage.core.ledger import Ledger, PartitionKey
from fivestage.core.partition_halt import MAX_PAUSES, HaltGuard, HaltPolicy

KEY, OTHER = PartitionKey("queries", 0), PartitionKey("queries", 1)
GOOD, BAD = True, False


def feed(guard: HaltGuard, *records: bool, now: float = 0.0, key: PartitionKey = KEY) -> list[bool]:
    """Feed records until a halt; return the decisions."""
    return [key not in guard.halted and guard.admit(key, readable=record, now=now) for record in records]


def test_a_run_of_unreadable_records_halts() -> None:
    """The limit of unreadable records in a row halts the partition before the next one."""
    guard = HaltGuard(HaltPolicy(max_consecutive=3))
    assert feed(guard, BAD, BAD, GOOD, BAD, BAD, BAD, BAD) == [True] * 6 + [False]
    assert "dlq.max_consecutive" in guard.halted[KEY].reason


def test_a_share_of_unreadable_records_halts() -> None:
    """The share of unreadable records is judged only over a full window."""
    guard = HaltGuard(HaltPolicy(max_consecutive=0, max_ratio=0.5, window=4))
    assert feed(guard, BAD, BAD, BAD) == [True] * 3
    assert feed(guard, GOOD, GOOD, GOOD) == [True] * 3
    assert feed(guard, BAD, BAD, BAD) == [True, True, False]
    assert "3 of 4" in guard.halted[KEY].reason


def test_off() -> None:
    """With both limits 0 any number passes."""
    guard = HaltGuard(HaltPolicy(max_consecutive=0, max_ratio=0))
    assert all(feed(guard, *[BAD] * 5000))


def test_a_readable_record_never_halts() -> None:
    """Readable records never halt."""
    guard = HaltGuard(HaltPolicy(max_consecutive=1, max_ratio=0.1, window=2))
    assert feed(guard, BAD, GOOD, GOOD, GOOD) == [True] * 4


def test_a_healthy_topic_with_its_share_of_rubbish() -> None:
    """With the defaults, a third of unreadable records and runs of 900 do not halt."""
    guard = HaltGuard(HaltPolicy())
    assert all(feed(guard, *[BAD, GOOD, GOOD] * 2000))
    guard = HaltGuard(HaltPolicy())
    assert all(feed(guard, *[GOOD] * 5000, *[BAD] * 500, *[GOOD] * 1000))


def test_partitions_are_judged_by_themselves() -> None:
    """Each partition is judged separately."""
    guard = HaltGuard(HaltPolicy(max_consecutive=1))
    assert feed(guard, BAD, BAD) == [True, False]
    assert feed(guard, BAD, GOOD, BAD, key=OTHER) == [True] * 3
    assert list(guard.halted) == [KEY]


def test_successive_pauses_double() -> None:
    """Successive pauses double, up to sixteen times; a healthy stretch resets them."""
    guard = HaltGuard(HaltPolicy(max_consecutive=1, window=1, max_ratio=0, pause_s=10))
    lasted = []
    now = 0.0
    for _ in range(7):
        feed(guard, BAD, BAD, now=now)
        until = guard.halted[KEY].until
        assert until is not None
        lasted.append(until - now)
        assert guard.over(until - 0.001) == []
        assert guard.over(until) == [KEY]
        now = until
        guard.resume(KEY)
    assert lasted == [10, 20, 40, 80, 160, 10 * MAX_PAUSES, 10 * MAX_PAUSES]
    feed(guard, GOOD, GOOD, BAD, BAD, now=now)
    assert guard.halted[KEY].until == now + 10


def test_a_pause_without_end() -> None:
    """With a pause of 0 a partition stays halted until a restart."""
    guard = HaltGuard(HaltPolicy(max_consecutive=1, pause_s=0))
    feed(guard, BAD, BAD)
    assert guard.halted[KEY].until is None
    assert guard.over(1e12) == []


@given(records=st.lists(st.booleans(), max_size=80), limit=st.integers(1, 5), window=st.integers(1, 10))
def test_limits_hold_whatever_comes(records: list[bool], limit: int, window: int) -> None:
    """No admitted run is longer than the limit, and no full window exceeds the share."""
    guard = HaltGuard(HaltPolicy(max_consecutive=limit, max_ratio=0.5, window=window))
    admitted = []
    for record in records:
        if not guard.admit(KEY, readable=record, now=0.0):
            break
        admitted.append(record)
    run = 0
    for at, record in enumerate(admitted):
        run = 0 if record else run + 1
        assert run <= limit
        if at >= window:  # the window was full before this record
            assert record or admitted[at - window + 1 : at + 1].count(BAD) <= window * 0.5


# The offsets of a halted partition


def ledger() -> Ledger:
    """Build a ledger of two partitions, the first halted at its third record."""
    books = Ledger(max_span=100, halt_policy=HaltPolicy(max_consecutive=1, pause_s=10))
    books.assign(frozenset({KEY, OTHER}))
    offsets = books.partitions[KEY]
    for offset in (5, 6, 7, 8):
        offsets.begin(offset)
    feed(books.guard, BAD, BAD)
    offsets.put_back()
    offsets.put_back()
    return books


def test_nothing_beyond_a_halt_is_committed() -> None:
    """Records read before the halt are finished and committed; the partition is fetched no more."""
    books = ledger()
    assert books.within_span() == [OTHER]
    assert books.halted() == [KEY]
    assert books.in_flight() == 2
    books.partitions[KEY].finish(6)
    books.partitions[KEY].finish(5)
    assert books.committable() == {KEY: 7}


def test_resumed_where_it_was_halted() -> None:
    """It resumes after the pause and once nothing is in flight, from the first record handed back."""
    books = ledger()
    assert books.resumable(10.0) == []
    books.partitions[KEY].finish(5)
    books.partitions[KEY].finish(6)
    assert books.resumable(9.9) == []
    assert books.resumable(10.0) == [KEY]
    assert books.resume(KEY) == 7
    assert set(books.within_span()) == {KEY, OTHER}
    books.partitions[KEY].begin(7)
    books.partitions[KEY].finish(7)
    assert books.committable() == {KEY: 8}


def test_halted_across_a_rebalance() -> None:
    """A partition revoked and reassigned to the same member stays halted for its time."""
    books = ledger()
    books.revoke(frozenset({KEY}))
    assert (books.halted(), books.resumable(10.0)) == ([], [])
    books.assign(frozenset({KEY}))
    assert (books.halted(), books.resumable(9.0), books.resumable(10.0)) == ([KEY], [], [KEY])
    assert books.resume(KEY) is None


@pytest.mark.parametrize("finished", [True, False])
def test_new_offsets_forget_what_was_handed_back(*, finished: bool) -> None:
    """New offsets of a partition, or of a part of it, forget what was handed back."""
    books = Ledger(max_span=10)
    books.assign(frozenset({KEY}))
    offsets = books.partitions[KEY]
    offsets.begin(3)
    if finished:
        offsets.finish(3)
    else:
        offsets.put_back()
    offsets.begin_again()
    assert (offsets.in_flight, offsets.next_offset, offsets.span) == (0, 4 if finished else 3, 0)
