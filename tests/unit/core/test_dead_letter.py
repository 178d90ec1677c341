"""Dead letters, read back, and the records that replay them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivestage.core.codec.dead_letter import (
    DeadLetter,
    Mark,
    Place,
    Selection,
    mark_headers,
    read_letter,
    replay_headers,
)
from fivestage.core.codec.decode import Unreadable, UnreadableReason
from fivestage.core.codec.encode import Encoder
from fivestage.core.records import Output, PlainRecord

from .samples import envelope, record


def letter(reason: UnreadableReason = UnreadableReason.NOT_JSON, **fields: Any) -> DeadLetter:
    """A letter as the encoder writes it and the topic gives it back."""
    encoder = Encoder(source="/test", max_record_bytes=1000, max_dead_letter_bytes=1000)
    source = record(**{"value": b"{", "key": b"k", "timestamp": 1000, **fields})
    written, *_ = encoder.unreadable(envelope(source), Unreadable(reason, "why", None))
    assert written.output is Output.DEAD_LETTERS
    found = read_letter(PlainRecord("letters", 2, 9, 5000, written.key, written.value, written.headers))
    assert isinstance(found, DeadLetter)
    return found


def test_what_the_encoder_writes_is_read_back() -> None:
    """Reason, detail, both places and times, and the size."""
    found = letter()
    assert (found.reason, found.detail) == ("not_json", "why")
    assert (found.source, found.source_timestamp) == (Place("queries", 3, 42), 1000)
    assert (str(found.place), found.written_at, found.size) == ("letters/2/9", 5.0, 1)
    assert found.has_its_bytes
    assert found.without_value().record.value is None
    assert found.without_value().size == 1


def test_letters_without_their_bytes() -> None:
    """What did not fit, and what could not be fetched, cannot be replayed."""
    assert not letter(value=b"x" * 2000).has_its_bytes
    assert not letter(UnreadableReason.CORRUPT_RECORD, value=None).has_its_bytes
    assert letter(UnreadableReason.EMPTY_VALUE, value=None).has_its_bytes
    assert not letter(UnreadableReason.EMPTY_VALUE, value=None, key=None).has_its_bytes


def test_the_headers_of_a_replayed_record() -> None:
    """The producer's own that were kept, and where it was a letter; the expiry is over, and left out."""
    kept = [("content-type", b"application/json"), ("ce_id", b"7"), ("lane", b"canary")]
    found = letter(headers=[*kept, ("ce_expirytime", b"2020-01-01T00:00:00Z"), ("x-secret", b"1")])
    assert replay_headers(found) == [*kept, ("dlq.replayed-from", b"letters/2/9")]


def test_where_a_letter_came_from_outlives_its_second_failure() -> None:
    """A replayed record that fails again says which letter it was, and replays from the new one."""
    again = letter(headers=replay_headers(letter()))
    assert again.replayed_from == "letters/2/9"
    assert replay_headers(again) == [("dlq.replayed-from", b"letters/2/9")]


def test_a_mark_names_its_letter() -> None:
    """It is read back as what it was written for."""
    mark = PlainRecord("letters", 2, 10, 6000, b"k", None, mark_headers(letter()))
    assert read_letter(mark) == Mark(2, 9)


@pytest.mark.parametrize(
    ("selection", "matches"),
    [
        (Selection(), True),
        (Selection(topic="queries", reasons={"not_json"}, since=5.0, until=5.001), True),
        (Selection(topic="other"), False),
        (Selection(reasons={"too_large"}), False),
        (Selection(since=5.001), False),
        (Selection(until=5.0), False),
    ],
)
def test_selection(selection: Selection, *, matches: bool) -> None:
    """By topic, reason and time, from inclusive and to exclusive."""
    assert selection.matches(letter()) is matches


@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from(
                ["dlq.topic", "dlq.partition", "dlq.offset", "dlq.timestamp", "dlq.reason", "dlq.replayed"]
            )
            | st.text(max_size=5),
            st.none() | st.binary(max_size=8) | st.sampled_from([b"1", b"1/2", b"t"]),
        ),
        max_size=8,
    )
)
def test_foreign_records_are_no_letters(headers: list[Any]) -> None:
    """Whatever else is in that topic is passed over, or read as far as it is one; it never raises."""
    found = read_letter(PlainRecord("letters", 0, 0, 0, None, b"", headers))
    assert found is None or isinstance(found, DeadLetter | Mark)
