"""Dead letters: each is its unreadable record with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .asked import MAX_HEADERS, kept_headers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .reading import Place, Record

REASONS = {
    *("empty_value", "too_large", "not_json", "not_an_object", "missing_field", "invalid_field"),
    *("unsupported_version", "bad_cloudevent", "unknown_lane", "corrupt_record"),
}
_OWN = ("dlq.reason", "dlq.detail", "dlq.topic", "dlq.partition", "dlq.offset", "dlq.timestamp")
_MAX_DETAIL = 512


class Letter(NamedTuple):
    """A dead letter, and the place of its record."""

    record: Record
    source: Place
    headers: dict[str, str]


def read_letter(record: Record, topic: str) -> Letter | str | None:
    """Parse a letter, or return why that fails; None for the mark of a replay."""
    name = f"dead_letters {record.at[0]}/{record.at[1]}"
    headers = {header: (text or b"").decode(errors="replace") for header, text in record.headers}
    if "dlq.replayed" in headers:
        return None
    if missing := [header for header in _OWN if header not in headers]:
        return f"{name}: without {missing}"
    partition, offset = headers["dlq.partition"], headers["dlq.offset"]
    if headers["dlq.topic"] != topic or not (partition + offset).isdecimal():
        return f"{name}: of {headers['dlq.topic']}/{partition}/{offset}"
    return Letter(record, (int(partition), int(offset)), headers)


def flaws_of_letter(letter: Letter, record: Record | None) -> Iterator[str]:
    """Return the faults of a dead letter; *record* is None where that no longer exists."""
    headers, reason = letter.headers, letter.headers["dlq.reason"]
    if reason not in REASONS:
        yield f"dlq.reason is {reason!r}"
    if len(headers["dlq.detail"]) > _MAX_DETAIL:
        yield f"dlq.detail has {len(headers['dlq.detail'])} characters"
    if record is None or reason == "corrupt_record":  # there are no bytes to keep
        return
    if headers["dlq.timestamp"] != str(record.timestamp_ms):
        yield f"dlq.timestamp is {headers['dlq.timestamp']}, its record's {record.timestamp_ms}"
    truncated = "dlq.truncated" in headers
    if letter.record.value != (None if truncated else record.value):
        yield "its value is not its record's"
    if letter.record.key != (None if truncated else record.key):
        yield f"its key is {letter.record.key!r}, its record's {record.key!r}"
    kept = [(name, value) for name, value in letter.record.headers if name not in {*_OWN, "dlq.truncated"}]
    if kept != ([] if truncated else kept_headers(record)):
        yield f"it kept the headers {[name for name, _ in kept]} of its record's first {MAX_HEADERS}"
