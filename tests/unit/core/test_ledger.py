"""Partition offsets: which may be committed."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fivestage.core.ledger import (
    MAX_IN_LINE,
    MAX_LINE_BYTES,
    MIN_IN_LINE,
    Ledger,
    PartitionKey,
    PartitionOffsets,
)

A, B, C = PartitionKey("queries", 0), PartitionKey("queries", 1), PartitionKey("other", 0)


def offsets_with(*offsets: int) -> PartitionOffsets:
    """Build partition offsets with these records started."""
    book = PartitionOffsets(epoch=1)
    for offset in offsets:
        book.begin(offset)
    return book


def open_ledger(*keys: PartitionKey, max_span: int = 100) -> Ledger:
    """Build a ledger with these partitions assigned."""
    ledger = Ledger(max_span=max_span)
    ledger.assign(frozenset(keys))
    return ledger


def opened(ledger: Ledger, key: PartitionKey) -> PartitionOffsets:
    """Return the open offsets of a partition."""
    book = ledger.offsets(key)
    assert book is not None
    return book


@pytest.mark.parametrize(
    ("started", "finished", "committable"),
    [
        pytest.param([], [], None, id="nothing received"),
        pytest.param([5], [], None, id="nothing finished"),
        pytest.param([5], [5], 6, id="one past the finished one"),
        pytest.param([0], [0], 1, id="the first offset there is"),
        pytest.param([5, 6, 7], [7, 6], None, id="the first one is missing"),
        pytest.param([5, 6, 7], [5, 7], 6, id="up to the gap"),
        pytest.param([5, 6, 7], [7, 5, 6], 8, id="the gap closed"),
        pytest.param([5, 9, 20], [5], 9, id="offsets never received count as finished, up to the next"),
        pytest.param([5, 9, 20], [5, 9], 20, id="likewise"),
        pytest.param([5, 9, 20], [5, 9, 20], 21, id="all of a partition with gaps"),
        pytest.param([5, 9, 20], [20, 9], None, id="gaps do not help the one that is missing"),
    ],
)
def test_the_contiguous_finished_prefix(
    started: list[int], finished: list[int], committable: int | None
) -> None:
    """The committable position is the end of the prefix in which every record is finished."""
    book = offsets_with(*started)
    for offset in finished:
        book.finish(offset)
    assert book.committable == committable
    assert book.in_flight == len(started) - len(finished)


@pytest.mark.parametrize("order", list(permutations([3, 4, 8, 9])))
def test_any_order_of_finishing_ends_in_the_same_place(order: tuple[int, ...]) -> None:
    """The order of finishing does not change the final position."""
    book = offsets_with(3, 4, 8, 9)
    for offset in order:
        book.finish(offset)
    assert (book.committable, book.in_flight, book.span) == (10, 0, 0)


@pytest.mark.parametrize("offset", [5, 6, 0])
def test_offsets_rise(offset: int) -> None:
    """A repeated or lower offset is a bug of the source: it raises and changes nothing."""
    book = offsets_with(5, 6)
    with pytest.raises(ValueError, match="received before; the next is 7"):
        book.begin(offset)
    assert (book.in_flight, book.next_offset) == (2, 7)


def test_the_span_is_what_a_crash_would_repeat() -> None:
    """The span counts offsets, not records, from the commit position to the newest."""
    book = offsets_with()
    assert book.span == 0
    for offset, span in [(10, 1), (11, 2), (100, 91)]:
        book.begin(offset)
        assert book.span == span
    book.finish(11)
    assert book.span == 91
    book.finish(10)
    assert book.span == 1
    assert repr(book) == "<PartitionOffsets epoch=1 position=100 in_flight=1 span=1>"


def test_a_partition_whose_span_is_at_the_cap_waits() -> None:
    """A slow record stops its own partition at the maximal span, until it is finished."""
    ledger = open_ledger(A, B, max_span=3)
    for offset in (0, 1, 2):
        assert A in ledger.within_span()
        opened(ledger, A).begin(offset)
    opened(ledger, B).begin(0)
    assert ledger.within_span() == [B]
    for offset in (1, 2):
        opened(ledger, A).finish(offset)
    assert ledger.within_span() == [B]
    opened(ledger, A).finish(0)
    assert sorted(ledger.within_span()) == [A, B]


def test_a_partition_with_a_full_line_waits() -> None:
    """Each partition has its share of the records and bytes that may wait for others of their keys."""
    ledger = open_ledger(A, B)
    opened(ledger, A).in_line = MAX_IN_LINE // 2 - 1
    opened(ledger, B).line_bytes = MAX_LINE_BYTES // 2 - 1
    assert sorted(ledger.within_span()) == [A, B]
    opened(ledger, A).in_line += 1
    assert ledger.within_span() == [B]
    opened(ledger, B).line_bytes += 1
    assert ledger.within_span() == []


def test_each_of_many_partitions_may_have_a_short_line() -> None:
    """With any number of partitions, a few records of each may wait."""
    keys = [PartitionKey("many", number) for number in range(MAX_IN_LINE)]
    ledger = open_ledger(*keys)
    for key in keys:
        opened(ledger, key).in_line = MIN_IN_LINE - 1
    assert len(ledger.within_span()) == MAX_IN_LINE
    opened(ledger, keys[0]).in_line += 1
    assert keys[0] not in ledger.within_span()


def test_only_new_positions_are_committed() -> None:
    """After a commit there is nothing to commit until more records finish."""
    ledger = open_ledger(A, B)
    for offset in (0, 1):
        opened(ledger, A).begin(offset)
    opened(ledger, A).finish(0)
    assert ledger.committable() == {A: 1}
    ledger.note_committed({A: 1}, epoch=ledger.epoch)
    assert ledger.committable() == {}
    opened(ledger, A).finish(1)
    assert ledger.committable() == {A: 2}


def test_an_unacknowledged_commit_is_offered_again() -> None:
    """Reading the positions changes nothing: a lost commit is repeated with newer positions."""
    ledger = open_ledger(A)
    opened(ledger, A).begin(7)
    opened(ledger, A).finish(7)
    assert ledger.committable() == ledger.committable() == {A: 8}


def test_a_revoked_partition_is_not_committed() -> None:
    """A record that ends after its partition was revoked moves no position, also in the old offsets."""
    ledger = open_ledger(A, B)
    held = opened(ledger, A)
    held.begin(1)
    ledger.revoke(frozenset({A, C}))
    held.finish(1)
    assert (ledger.offsets(A), ledger.committable(), held.committable) == (None, {}, None)
    assert ledger.in_flight() == 0
    assert set(ledger.partitions) == {B}
    assert repr(held).endswith("closed>")


@pytest.mark.fault(9)
def test_a_new_assignment_starts_over() -> None:
    """A reassigned partition may re-read offsets; its old offsets object cannot change the new one."""
    ledger = open_ledger(A)
    old = opened(ledger, A)
    for offset in (10, 11):
        old.begin(offset)
    ledger.assign(frozenset({A}))
    new = opened(ledger, A)
    new.begin(10)
    for offset in (10, 11):
        old.finish(offset)
    assert (ledger.committable(), new.in_flight, new.epoch) == ({}, 1, old.epoch + 1)


def test_an_acknowledgement_from_an_older_epoch_is_dropped() -> None:
    """A commit sent before a rebalance and answered after it does not affect the new offsets."""
    ledger = open_ledger(A)
    opened(ledger, A).begin(10)
    opened(ledger, A).finish(10)
    sent, epoch = ledger.committable(), ledger.epoch
    ledger.assign(frozenset({A}))
    opened(ledger, A).begin(10)
    opened(ledger, A).finish(10)
    ledger.note_committed(sent, epoch=epoch)
    assert ledger.committable() == {A: 11}


def test_in_flight_of_some_partitions() -> None:
    """In-flight records can be counted for the revoked partitions only."""
    ledger = open_ledger(A, B, C)
    for key, count in ((A, 1), (B, 2), (C, 4)):
        for offset in range(count):
            opened(ledger, key).begin(offset)
    assert ledger.in_flight() == 7
    assert ledger.in_flight(frozenset({A, C})) == 5
    assert ledger.in_flight(frozenset()) == 0


class NaiveBook:
    """A naive model: the position moves when a record ends, not when one starts."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.finished: set[int] = set()
        self.committed: int | None = None
        self.position: int | None = None
        self.end: int | None = None

    def begin(self, offset: int) -> None:
        """Start a record; the first one is where reading started."""
        if self.end is None:
            self.position = self.committed = offset
        self.started.append(offset)
        self.end = offset + 1

    def skip_to(self, offset: int) -> None:
        """Skip deleted records: with nothing in flight, the position moves behind them."""
        self.end = offset
        if not self.unfinished:
            self.position = offset

    def finish(self, offset: int) -> None:
        """End a record and move to the first unfinished one."""
        self.finished.add(offset)
        self.position = self.unfinished[0] if self.unfinished else self.end

    @property
    def unfinished(self) -> list[int]:
        """Return the records in flight."""
        return [offset for offset in self.started if offset not in self.finished]

    @property
    def committable(self) -> int | None:
        """Return the position, unless it is committed."""
        return None if self.position == self.committed else self.position


class LedgerMachine(RuleBasedStateMachine):
    """Partitions are assigned and revoked, records start and end in any order, commits are late or lost."""

    max_span = 12

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(max_span=self.max_span)
        self.model: dict[PartitionKey, NaiveBook] = {}
        self.epochs: dict[PartitionKey, int] = {}
        self.epoch = 0
        self.pending: list[tuple[PartitionOffsets, NaiveBook, int]] = []
        self.unanswered: list[tuple[dict[PartitionKey, int], int]] = []
        self.highest: dict[tuple[PartitionKey, int], int] = {}

    @rule(keys=st.sets(st.sampled_from([A, B, C]), min_size=1))
    def assign(self, keys: set[PartitionKey]) -> None:
        """Assign partitions, possibly assigned ones too."""
        self.epoch += 1
        self.ledger.assign(frozenset(keys))
        for key in keys:
            self.model[key], self.epochs[key] = NaiveBook(), self.epoch

    @rule(keys=st.sets(st.sampled_from([A, B, C])))
    def revoke(self, keys: set[PartitionKey]) -> None:
        """Revoke partitions, possibly unassigned ones too."""
        self.ledger.revoke(frozenset(keys))
        for key in keys:
            self.model.pop(key, None)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), gap=st.integers(0, 5), start=st.integers(0, 10**12))
    def begin(self, data: Any, gap: int, start: int) -> None:
        """Start a record, possibly after a gap."""
        key = data.draw(st.sampled_from(sorted(self.model)))
        model, book = self.model[key], opened(self.ledger, key)
        offset = start if model.end is None else model.end + gap
        book.begin(offset)
        model.begin(offset)
        self.pending.append((book, model, offset))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), gap=st.integers(0, 5), start=st.integers(0, 10**12))
    def skip(self, data: Any, gap: int, start: int) -> None:
        """Skip deleted records."""
        key = data.draw(st.sampled_from(sorted(self.model)))
        model, book = self.model[key], opened(self.ledger, key)
        offset = start if model.end is None else model.end + gap
        book.skip_to(offset)
        model.skip_to(offset)

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        """End any record in flight, also one of a revoked partition."""
        place = data.draw(st.integers(0, len(self.pending) - 1))
        book, model, offset = self.pending.pop(place)
        book.finish(offset)
        model.finish(offset)

    @rule()
    def send_commit(self) -> None:
        """Send a commit, whose response comes later or never."""
        self.unanswered.append((self.ledger.committable(), self.ledger.epoch))

    @precondition(lambda self: self.unanswered)
    @rule(lost=st.booleans())
    def answer_commit(self, *, lost: bool) -> None:
        """Acknowledge the oldest commit: responses of a member come in order."""
        positions, epoch = self.unanswered.pop(0)
        if lost:
            return
        self.ledger.note_committed(positions, epoch=epoch)
        for key, position in positions.items():
            if key in self.model and self.epochs[key] <= epoch:  # not one that was assigned since
                self.model[key].committed = position

    @invariant()
    def agrees_with_the_model(self) -> None:
        """Every figure matches the naive model."""
        assert set(self.ledger.partitions) == set(self.model)
        assert self.ledger.epoch == self.epoch
        committable = {key: book.committable for key, book in self.model.items()}
        assert self.ledger.committable() == {k: v for k, v in committable.items() if v is not None}
        for key, model in self.model.items():
            book = opened(self.ledger, key)
            assert book.position == model.position
            assert book.in_flight == len(model.started) - len(model.finished)
            span = 0 if model.end is None else model.end - (model.position or 0)
            assert book.span == span
            assert (key in self.ledger.within_span()) is (span < self.max_span)
        assert self.ledger.in_flight() == sum(len(m.started) - len(m.finished) for m in self.model.values())

    @invariant()
    def never_ahead_and_never_back(self) -> None:
        """No unfinished record lies before a commit position, and in an epoch no position decreases."""
        for key, position in self.ledger.committable().items():
            model, slot = self.model[key], (key, self.epochs[key])
            assert all(offset in model.finished for offset in model.started if offset < position)
            assert position >= self.highest.get(slot, 0)
            self.highest[slot] = position

    @invariant()
    def closed_books_commit_nothing(self) -> None:
        """Offsets of an earlier assignment commit nothing, whatever ends in them."""
        for book, model, _ in self.pending:
            assert book.closed is (model not in self.model.values())
            assert not (book.closed and book.committable is not None)


TestLedgerMachine = pytest.mark.fault(9)(LedgerMachine.TestCase)
TestLedgerMachine.__doc__ = "The ledger does what a naive one does, whatever happens in whatever order."
TestLedgerMachine.settings = hypothesis.settings(max_examples=60, stateful_step_count=40)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_the_position_only_rises(gaps: list[int], random: Any) -> None:
    """The position never decreases and ends one past the last offset, in any order."""
    offsets = [sum(gaps[: place + 1]) for place in range(len(gaps))]
    book = offsets_with(*offsets)
    order = offsets.copy()
    random.shuffle(order)
    seen = [book.position or 0]
    for offset in order:
        book.finish(offset)
        seen.append(book.position or 0)
    assert seen == sorted(seen)
    assert seen[-1] == offsets[-1] + 1


@pytest.mark.parametrize("offset", [4, 5, 7])
def test_only_records_in_flight_can_finish(offset: int) -> None:
    """Finishing a record twice, or one that was not started, raises."""
    book = PartitionOffsets(epoch=1)
    for started in (5, 6):
        book.begin(started)
    book.finish(5)
    with pytest.raises(ValueError, match="not in flight"):
        book.finish(offset)
    assert (book.in_flight, book.position) == (1, 6)


def test_records_handed_back_are_neither_awaited_nor_committed() -> None:
    """A record handed back is not in flight, and keeps the commit position before it."""
    ledger = open_ledger(A, B)
    book = opened(ledger, A)
    for offset in range(4):
        book.begin(offset)
    book.finish(0)
    book.put_back()
    assert (book.in_flight, ledger.in_flight()) == (2, 2)
    book.finish(2)
    book.finish(3)
    assert (book.in_flight, ledger.in_flight(frozenset({A}))) == (0, 0)
    assert (ledger.committable(), book.span) == ({A: 1}, 3)


def test_a_new_assignment_forgets_records_handed_back() -> None:
    """A new assignment starts with the records that were handed back."""
    ledger = open_ledger(A)
    opened(ledger, A).begin(0)
    opened(ledger, A).put_back()
    ledger.assign(frozenset({A}))
    opened(ledger, A).begin(0)
    assert ledger.in_flight() == 1
    opened(ledger, A).finish(0)
    assert (ledger.in_flight(), ledger.committable()) == (0, {A: 1})
