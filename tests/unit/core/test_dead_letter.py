"""Dead letters parsed back, and the records that replay them."""

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
    """Build a letter as encoded and read from the topic."""
    encoder = Encoder(source="/test", max_record_bytes=1000, max_dead_letter_bytes=1000)
    source = record(**{"value": b"{", "key": b"k", "timestamp": 1000, **fields})
    written, *_ = encoder.unreadable(envelope(source), Unreadable(reason, "why", None))
    assert written.output is Output.DEAD_LETTERS
    found = read_letter(PlainRecord("letters", 2, 9, 5000, written.key, written.value, written.headers))
    assert isinstance(found, DeadLetter)
    return found


def test_encoded_letters_are_parsed_back() -> None:
    """Reason, detail, both places and times, and the size are read back."""
    found = letter()
    assert (found.reason, found.detail) == ("not_json", "why")
    assert (found.source, found.source_timestamp) == (Place("queries", 3, 42), 1000)
    assert (str(found.place), found.written_at, found.size) == ("letters/2/9", 5.0, 1)
    assert found.has_its_bytes
    assert found.without_value().record.value is None
    assert found.without_value().size == 1


def test_letters_without_their_bytes() -> None:
    """Letters whose bytes did not fit, or could not be fetched, cannot be replayed."""
    assert not letter(value=b"x" * 2000).has_its_bytes
    assert not letter(UnreadableReason.CORRUPT_RECORD, value=None).has_its_bytes
    assert letter(UnreadableReason.EMPTY_VALUE, value=None).has_its_bytes
    assert not letter(UnreadableReason.EMPTY_VALUE, value=None, key=None).has_its_bytes


def test_the_headers_of_a_replayed_record() -> None:
    """A replayed record has the producer's kept headers and the letter's place; the expiry is left out."""
    kept = [("content-type", b"application/json"), ("ce_id", b"7"), ("lane", b"canary")]
    found = letter(headers=[*kept, ("ce_expirytime", b"2020-01-01T00:00:00Z"), ("x-secret", b"1")])
    assert replay_headers(found) == [*kept, ("dlq.replayed-from", b"letters/2/9")]


def test_a_letter_that_fails_again_keeps_its_origin() -> None:
    """A replayed record that fails again names its first letter, and replays from the new one."""
    again = letter(headers=replay_headers(letter()))
    assert again.replayed_from == "letters/2/9"
    assert replay_headers(again) == [("dlq.replayed-from", b"letters/2/9")]


def test_a_mark_names_its_letter() -> None:
    """The mark of a replay is parsed back to its letter."""
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
    """Letters are selected by topic, reason and time, from inclusive and to exclusive."""
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
    """Foreign records in the topic are skipped or parsed as far as possible, and never raise."""
    found = read_letter(PlainRecord("letters", 0, 0, 0, None, b"", headers))
    assert found is None or isinstance(found, DeadLetter | Mark)
