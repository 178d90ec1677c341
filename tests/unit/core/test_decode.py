"""Decoding records into queries: the three forms, and everything else."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from cloudevents.core.bindings import kafka as cloudevents
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from fivestage.core.codec.decode import (
    MAX_DEPTH,
    MAX_DETAIL_CHARS,
    MAX_KEY_BYTES,
    DecodeLimits,
    Readable,
    Unreadable,
    UnreadableReason,
    decode,
    known_headers,
)
from fivestage.core.records import PlainRecord
from fivestage_schemas import QueryEvent

from .samples import record

LIMITS = DecodeLimits(max_value_bytes=65536)
WIDE = DecodeLimits(max_value_bytes=10_000_000)
STRUCTURED = ("content-type", b"application/cloudevents+json")
SECRET = "correct-horse-battery-staple"  # noqa: S105 - stands for what a payload may hold
Reason = UnreadableReason


def query(**fields: Any) -> dict[str, Any]:
    """Return the fields of a valid query."""
    return {"query_id": "q-1", "user_input": "2+2", **fields}


def dump(value: Any) -> bytes:
    """Dump JSON as a foreign library does."""
    return json.dumps(value).encode()


def read(value: Any, *headers: tuple[str, Any], limits: DecodeLimits = LIMITS, **fields: Any) -> Any:
    """Decode a record with this value."""
    raw = value if isinstance(value, bytes | None) else dump(value)
    return decode(record(raw, headers=headers, **fields), limits)


def envelope(data: Any, **attributes: Any) -> dict[str, Any]:
    """Build a CloudEvent in structured mode."""
    return {
        "specversion": "1.0",
        "id": "ce-1",
        "source": "/test",
        "type": "test.query",
        "data": data,
        **attributes,
    }


# Readable records


def test_bare_json() -> None:
    """All fields of a query are read, without any header."""
    fields = query(
        lane="canary",
        deadline="2030-01-01T00:00:00+02:00",
        budget_ms=100,
        context={"a": [1, None]},
        allow_partial=True,
    )
    got = read(fields)
    assert isinstance(got, Readable)
    assert got.event.model_dump(mode="json") == {
        **fields,
        "schema_version": "1",
    }
    assert (got.lane, got.headers, got.expiry_time) == ("canary", {}, None)


def test_unknown_fields_are_ignored() -> None:
    """Fields of a later minor version are ignored."""
    got = read(query(priority=9, schema_version="1"))
    assert isinstance(got, Readable)
    assert "priority" not in got.event.model_dump()


def test_binary_cloudevent() -> None:
    """Data is read from the value, attributes from the headers; foreign headers are ignored."""
    got = read(
        query(),
        ("ce_specversion", b"1.0"),
        ("ce_id", b"ce-1"),
        ("ce_correlationid", b"c-1"),
        ("ce_expirytime", b"2030-01-01T00:00:00Z"),
        ("traceparent", b"00-ab-cd-01"),
        ("lane", b"canary"),
        ("authorization", SECRET.encode()),
    )
    assert isinstance(got, Readable)
    assert got.event.query_id == "q-1"
    assert got.headers == {
        "ce_id": "ce-1",
        "ce_correlationid": "c-1",
        "ce_expirytime": "2030-01-01T00:00:00Z",
        "traceparent": "00-ab-cd-01",
        "lane": "canary",
    }
    assert got.lane == "canary"
    assert got.expiry_time == datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("own", [None, "q-1"])
def test_the_id_falls_back_to_that_of_the_cloudevent(own: str | None) -> None:
    """``query_id`` wins over ``ce_id``, in binary and in structured mode."""
    fields = query() if own else {"user_input": "2+2"}
    binary = read(fields, ("ce_id", b"ce-1"))
    structured = read(envelope(fields), STRUCTURED)
    assert [got.event.query_id for got in (binary, structured)] == [own or "ce-1"] * 2


@pytest.mark.parametrize(
    "content_type",
    [
        "application/cloudevents+json",
        "application/cloudevents+json; charset=utf-8",
        "Application/CloudEvents+JSON; charset=UTF-8",
    ],
)
def test_structured_cloudevent(content_type: str) -> None:
    """Data and attributes are in the value, the media type in any case (CloudEvents Kafka binding, 3)."""
    value = envelope(query(), correlationid="c-1", expirytime="2030-01-01T00:00:00Z", traceparent="x")
    got = read(value, ("content-type", content_type.encode()))
    assert isinstance(got, Readable)
    assert got.event.query_id == "q-1"
    assert got.headers["ce_correlationid"] == "c-1"
    assert got.expiry_time == datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "content_type", [b"application/json", b"text/plain", b"", b"application/json; charset=utf-8"]
)
def test_other_content_types_are_bare_json(content_type: bytes) -> None:
    """Only the CloudEvents media type marks an envelope."""
    assert isinstance(read(query(), ("content-type", content_type)), Readable)


def cloudevent(**extensions: Any) -> CloudEvent:
    """Build a query as a producer with the CloudEvents library does."""
    attributes = {
        "id": "ce-9",
        "source": "/oracle",
        "type": "oracle.query",
        "specversion": "1.0",
        **extensions,
    }
    attributes["datacontenttype"] = "application/json"
    return CloudEvent(attributes, {"user_input": "Größe 2+2 \u2264"})


@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_records_of_the_cloudevents_library_are_read(mode: str) -> None:
    """Records written by the CloudEvents library, an independent implementation, are read."""
    event = cloudevent(correlationid="c-9", expirytime="2030-01-01T00:00:00Z")
    write = cloudevents.to_binary_event if mode == "binary" else cloudevents.to_structured_event
    message = write(event)
    got = read(message.value, *message.headers.items())
    assert isinstance(got, Readable)
    assert (got.event.query_id, got.event.user_input) == ("ce-9", "Größe 2+2 \u2264")
    assert got.headers["ce_correlationid"] == "c-9"
    assert got.expiry_time == datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("field", "header", "lane"),
    [(None, None, "prod"), ("a", None, "a"), (None, b"b", "b"), ("a", b"b", "a"), (None, b"", "prod")],
)
def test_lane(field: str | None, header: bytes | None, lane: str) -> None:
    """The lane is the query's own, else the header's, else the service's."""
    fields = query(lane=field) if field else query()
    got = read(fields, *([("lane", header)] if header is not None else []))
    assert got.lane == lane


@pytest.mark.parametrize("header", [b"two words", b"a\n", b"x" * 65, "grün".encode(), b"{}", b"a/b"])
def test_the_lane_of_the_header_is_held_to_the_schema(header: bytes) -> None:
    """A lane in the header must match the schema too."""
    got = read(query(), ("lane", header))
    assert isinstance(got, Unreadable)
    assert (got.reason, got.query_id) == (Reason.INVALID_FIELD, "q-1")


def test_lanes_not_accepted_here() -> None:
    """With a list of lanes, a lane outside of it is rejected in either place."""
    limits = DecodeLimits(default_lane="prod", lanes=frozenset({"prod", "canary"}))
    assert read(query(lane="canary"), limits=limits).lane == "canary"
    for got in (read(query(lane="x"), limits=limits), read(query(), ("lane", b"x"), limits=limits)):
        assert (got.reason, got.query_id) == (Reason.UNKNOWN_LANE, "q-1")


def test_a_number_of_edge_cases_that_are_readable() -> None:
    """Empty input, the longest id, NUL and emoji, and null in every optional field are readable."""
    optional = dict.fromkeys(["lane", "deadline", "budget_ms", "context", "allow_partial"])
    for fields in (
        query(user_input=""),
        query(query_id="x" * 128),
        query(query_id="aZ0._:-"),
        query(user_input="a\x00b\u202e\U0001f600"),
        query(**optional),
        query(context={"nul\x00key": 1}),
    ):
        got = read(fields)
        assert isinstance(got, Readable)
        assert got.event.user_input == fields["user_input"]


def test_the_last_of_duplicate_keys_counts() -> None:
    """The last of duplicate keys counts, as in most JSON readers."""
    got = read(b'{"query_id":"first","query_id":"last","user_input":"x"}')
    assert got.event.query_id == "last"


def test_input_is_measured_in_bytes() -> None:
    """The input limit counts bytes: 32 KiB of UTF-8 pass, one byte more does not."""
    fits = read(query(user_input="ü" * 16384), limits=WIDE)
    assert isinstance(fits, Readable)
    long = read(query(user_input="ü" * 16384 + "x"), limits=WIDE)
    assert (long.reason, long.query_id) == (Reason.TOO_LARGE, "q-1")
    assert read(query(user_input="x" * 32769), limits=WIDE).query_id == "q-1"


# Unreadable records


def nested(depth: int) -> bytes:
    """Build a query of this nesting depth."""
    inner = depth - 1
    return b'{"query_id":"q-1","user_input":"x","context":' + b'{"a":' * inner + b"1" + b"}" * (inner + 1)


DEEP = b'{"query_id":"q-1","user_input":"x","context":' + b'{"a":' * 5000 + b"1" + b"}" * 5001
POISON: dict[str, tuple[Any, UnreadableReason]] = {
    "empty": (b"", Reason.EMPTY_VALUE),
    "tombstone": (None, Reason.EMPTY_VALUE),
    "null": (b"null", Reason.NOT_AN_OBJECT),
    "array": ([query()], Reason.NOT_AN_OBJECT),
    "string": (SECRET, Reason.NOT_AN_OBJECT),
    "number": (b"4", Reason.NOT_AN_OBJECT),
    "boolean": (b"true", Reason.NOT_AN_OBJECT),
    "not JSON": (f"hello {SECRET}".encode(), Reason.NOT_JSON),
    "whitespace": (b"   ", Reason.NOT_JSON),
    "cut": (dump(query())[:-1], Reason.NOT_JSON),
    "trailing": (dump(query()) + b"{}", Reason.NOT_JSON),
    "single quotes": (str(query()).encode(), Reason.NOT_JSON),
    "invalid UTF-8": (b'{"query_id":"q-1","user_input":"\xff\xfe"}', Reason.NOT_JSON),
    "overlong UTF-8": (b'{"query_id":"q-1","user_input":"\xc0\x80"}', Reason.NOT_JSON),
    "UTF-16": (json.dumps(query()).encode("utf-16"), Reason.NOT_JSON),
    "BOM": (b"\xef\xbb\xbf" + dump(query()), Reason.NOT_JSON),
    "NaN": (b'{"query_id":"q-1","user_input":"x","budget_ms":NaN}', Reason.NOT_JSON),
    "Infinity": (b'{"query_id":"q-1","user_input":"x","budget_ms":-Infinity}', Reason.NOT_JSON),
    "lone surrogate": (b'{"query_id":"q-1","user_input":"\\ud800"}', Reason.NOT_JSON),
    "raw control characters": (b'{"query_id":"q-1","user_input":"a\x01\nb"}', Reason.NOT_JSON),
    "100k digits": (
        b'{"query_id":"q-1","user_input":"x","budget_ms":' + b"9" * 100_000 + b"}",
        Reason.NOT_JSON,
    ),
    "depth 5000": (DEEP, Reason.NOT_JSON),
    "depth 255": (nested(255), Reason.TOO_LARGE),
    "depth 1024": (nested(1024), Reason.TOO_LARGE),
    "depth 1025": (nested(1025), Reason.NOT_JSON),
    "a list 5000 deep": (b'{"query_id":"q-1","context":' + b"[" * 5000 + b"]" * 5000 + b"}", Reason.NOT_JSON),
    "depth below a foreign field": (b'{"x":' + b"[" * 300 + b"]" * 300 + b"}", Reason.TOO_LARGE),
    "5 MB": (query(user_input="x" * 5_000_000), Reason.TOO_LARGE),
    "a million brackets": (b"[" * 1_000_000, Reason.NOT_JSON),
    "avro": (b"\x00\x00\x00\x00\x01\x02q-1", Reason.NOT_JSON),
    "missing id": ({"user_input": SECRET}, Reason.MISSING_FIELD),
    "missing input": ({"query_id": "q-1"}, Reason.MISSING_FIELD),
    "empty object": ({}, Reason.MISSING_FIELD),
    "1 MB of keys": ({f"{SECRET}{n}": n for n in range(30_000)}, Reason.MISSING_FIELD),
    "id null": (query(query_id=None), Reason.INVALID_FIELD),
    "id a number": (query(query_id=7), Reason.INVALID_FIELD),
    "id empty": (query(query_id=""), Reason.INVALID_FIELD),
    "id huge": (query(query_id="x" * 129), Reason.INVALID_FIELD),
    "id with spaces": (query(query_id=f"{SECRET} x"), Reason.INVALID_FIELD),
    "id with a line end": (query(query_id="q-1\n"), Reason.INVALID_FIELD),
    "id with NUL": (query(query_id="q\x001"), Reason.INVALID_FIELD),
    "id with digits of another script": (query(query_id="q-\u0661"), Reason.INVALID_FIELD),
    "input null": (query(user_input=None), Reason.INVALID_FIELD),
    "input a number": (query(user_input=4), Reason.INVALID_FIELD),
    "input an array": (query(user_input=[SECRET]), Reason.INVALID_FIELD),
    "context an array": (query(context=[SECRET]), Reason.INVALID_FIELD),
    "context a string": (query(context=SECRET), Reason.INVALID_FIELD),
    "budget nothing": (query(budget_ms=0), Reason.INVALID_FIELD),
    "budget negative": (query(budget_ms=-1), Reason.INVALID_FIELD),
    "budget a fraction": (query(budget_ms=0.5), Reason.INVALID_FIELD),
    "budget a word": (query(budget_ms=SECRET), Reason.INVALID_FIELD),
    "allow_partial a word": (query(allow_partial="true"), Reason.INVALID_FIELD),
    "allow_partial a number": (query(allow_partial=1), Reason.INVALID_FIELD),
    "allow_partial an object": (query(allow_partial={SECRET: True}), Reason.INVALID_FIELD),
    "deadline without offset": (query(deadline="2030-01-01T00:00:00"), Reason.INVALID_FIELD),
    "deadline a word": (query(deadline=SECRET), Reason.INVALID_FIELD),
    "deadline far out": (query(deadline="99999-01-01T00:00:00Z"), Reason.INVALID_FIELD),
    "lane of two words": (query(lane=f"{SECRET} x"), Reason.INVALID_FIELD),
    "lane empty": (query(lane=""), Reason.INVALID_FIELD),
    "lane huge": (query(lane="x" * 65), Reason.INVALID_FIELD),
    "version 2": (query(schema_version="2"), Reason.UNSUPPORTED_VERSION),
    "version a number": (query(schema_version=1), Reason.UNSUPPORTED_VERSION),
    "version 2 and much else": ({"schema_version": SECRET, "query_id": 1}, Reason.UNSUPPORTED_VERSION),
    "everything wrong": (
        dict.fromkeys(["query_id", "user_input", "lane", "context"], 1.5),
        Reason.INVALID_FIELD,
    ),
}


@pytest.mark.fault(29)
@pytest.mark.parametrize(("value", "reason"), POISON.values(), ids=POISON)
def test_poison(value: Any, reason: UnreadableReason) -> None:
    """Each has its reason and a detail for people without text of the payload."""
    got = read(value, limits=WIDE)
    assert isinstance(got, Unreadable)
    assert got.reason is reason
    assert 0 < len(got.detail) <= MAX_DETAIL_CHARS
    assert SECRET not in got.detail
    assert got.query_id in {None, "q-1"}


@pytest.mark.fault(29)
@pytest.mark.parametrize("depth", [2, 100, 253, 254, 255, 256, 500, 1023, 1024, 1025])
def test_readable_queries_can_be_encoded_again(depth: int) -> None:
    """The depth limit allows a query to be sent to a worker process and repeated in an answer."""
    got = read(nested(depth))
    assert isinstance(got, Readable) is (depth <= MAX_DEPTH)
    if isinstance(got, Readable):
        assert orjson.loads(orjson.dumps(got.event.context)) == got.event.context
    else:
        assert got.query_id in {None, "q-1"}


@pytest.mark.fault(29)
def test_many_brackets_are_not_depth() -> None:
    """Only nesting counts as depth: width is bounded by size, and brackets in strings are text."""
    wide = query(context={"a": [[]] * 5000}, user_input="[" * 5000)
    assert isinstance(read(wide), Readable)


@pytest.mark.fault(29)
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (query(user_input="x" * 65536), Reason.TOO_LARGE),
        (b"[" * 65537, Reason.TOO_LARGE),
        (b"x" * 65537, Reason.TOO_LARGE),
        (b"x" * 65536, Reason.NOT_JSON),
    ],
)
def test_size_is_checked_before_anything_is_parsed(value: Any, reason: UnreadableReason) -> None:
    """One byte over the limit is too large, whatever the content."""
    assert read(value).reason is reason


@pytest.mark.fault(29)
def test_oversized_keys() -> None:
    """A key is repeated on six events: the largest one is accepted, one byte more is not."""
    assert isinstance(read(query(), key=b"k" * MAX_KEY_BYTES), Readable)
    assert read(query(), key=b"k" * (MAX_KEY_BYTES + 1)).reason is Reason.TOO_LARGE


BAD_ENVELOPES: dict[str, Any] = {
    "no data": {"specversion": "1.0", "id": "ce-1"},
    "data null": envelope(None),
    "data an array": envelope([query()]),
    "data a string": envelope(json.dumps(query())),
    "data in base64": {**envelope(query()), "data": None, "data_base64": "e30="},
    "no id": {"specversion": "1.0", "data": query()},
    "id a number": envelope(query(), id=7),
    "id huge": envelope(query(), id="x" * 1025),
    "no version": {"id": "ce-1", "data": query()},
    "version a number": envelope(query(), specversion=1.0),
}


@pytest.mark.fault(29)
@pytest.mark.parametrize("value", BAD_ENVELOPES.values(), ids=BAD_ENVELOPES)
def test_bad_envelopes(value: Any) -> None:
    """A structured CloudEvent needs its version, its id, and an object as data."""
    assert read(value, STRUCTURED).reason is Reason.BAD_CLOUDEVENT


@pytest.mark.parametrize(
    "content_type",
    [b"application/cloudevents-batch+json", b"application/cloudevents+avro", b"application/cloudevents"],
)
def test_other_event_formats(content_type: bytes) -> None:
    """Batches and other CloudEvents encodings are rejected."""
    assert read(envelope(query()), ("content-type", content_type)).reason is Reason.BAD_CLOUDEVENT


def test_an_expiry_in_lower_case() -> None:
    """RFC 3339 allows t and z, in headers as in the field ``deadline``."""
    got = read(query(), ("ce_expirytime", b"2030-01-01t00:00:00z"))
    assert got.expiry_time == datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("text", ["tomorrow", "2030-01-01T00:00:00", "", "2030-13-01T00:00:00Z", SECRET])
@pytest.mark.parametrize("structured", [False, True])
def test_bad_expiry(text: str, *, structured: bool) -> None:
    """An expiry without offset, or an invalid one, is rejected."""
    if structured:
        got = read(envelope(query(), expirytime=text), STRUCTURED)
    else:
        got = read(query(), ("ce_expirytime", text.encode()))
    assert (got.reason, got.query_id) == (Reason.INVALID_FIELD, "q-1")
    assert SECRET not in got.detail


def test_long_attributes_are_dropped_in_both_modes() -> None:
    """Over-long attributes are dropped in an envelope as in headers: every event repeats them."""
    long = "x" * 1025
    binary = read(query(), ("ce_correlationid", long.encode()))
    structured = read(envelope(query(), correlationid=long), STRUCTURED)
    for got in (binary, structured):
        assert isinstance(got, Readable)
        assert "ce_correlationid" not in got.headers


@pytest.mark.parametrize(
    ("value", "headers", "query_id"),
    [
        (b"{", [("ce_id", b"ce-1")], "ce-1"),
        (b"{", [("ce_id", b"two words")], None),
        (b"{", [], None),
        (query(user_input=1), [], "q-1"),
        (query(user_input=1), [("ce_id", b"ce-1")], "q-1"),
        (query(query_id="two words"), [("ce_id", b"ce-1")], "ce-1"),
        (b"", [("ce_id", b"ce-1")], "ce-1"),
        (envelope(7), [STRUCTURED], "ce-1"),
        (envelope({"query_id": "q-1"}), [STRUCTURED], "q-1"),
    ],
)
def test_the_id_of_an_unreadable_query(value: Any, headers: list[Any], query_id: str | None) -> None:
    """Where a valid id is known the producer gets a terminal event."""
    got = read(value, *headers, ("ce_correlationid", b"c-1"))
    assert isinstance(got, Unreadable)
    assert (got.query_id, got.headers["ce_correlationid"]) == (query_id, "c-1")


# Headers


HEADERS: dict[str, tuple[list[tuple[str, Any]], dict[str, str]]] = {
    "none": ([], {}),
    "10k foreign ones": ([(f"x-{n}", b"1") for n in range(10_000)], {}),
    "10k known ones": ([("lane", b"a")] * 10_000, {"lane": "a"}),
    "1 MB": ([("ce_id", b"x" * 1_000_000), ("lane", b"a")], {"lane": "a"}),
    "the longest": ([("ce_id", b"x" * 1024)], {"ce_id": "x" * 1024}),
    "one too long": ([("ce_id", b"x" * 1025)], {}),
    "invalid UTF-8": ([("ce_id", b"\xff"), ("lane", b"a")], {"lane": "a"}),
    "repeated": ([("lane", b"a"), ("lane", b"b")], {"lane": "b"}),
    "repeated, then null": ([("lane", b"a"), ("lane", None)], {"lane": "a"}),
    "null": ([("ce_id", None)], {}),
    "other case": ([("CE_ID", b"1"), ("Lane", b"a")], {}),
    "empty name": ([("", b"1")], {}),
    "a name of 1 MB": ([("x" * 1_000_000, b"1"), ("lane", b"a")], {"lane": "a"}),
    "behind 64 others": ([("x", b"1")] * 64 + [("lane", b"a")], {}),
    "baggage": ([("baggage", b"user=7")], {}),
    "of dead letters": ([("dlq.reason", b"x"), ("dlq.replayed", b"0/1")], {}),
}


@pytest.mark.fault(31)
@pytest.mark.parametrize(("headers", "known"), HEADERS.values(), ids=HEADERS)
def test_headers(headers: list[tuple[str, Any]], known: dict[str, str]) -> None:
    """Only known headers of bounded size are read; others do no harm."""
    assert known_headers(headers) == known
    assert isinstance(read(query(), *headers), Readable)


# Arbitrary input


def check(got: Readable | Unreadable, limits: DecodeLimits) -> None:
    """Check the invariants of any result."""
    if isinstance(got, Readable):
        assert len(got.event.user_input.encode()) <= 32768
        orjson.dumps(got.event.context)
        assert not limits.lanes or got.lane in limits.lanes
    else:
        assert got.reason in UnreadableReason
        assert len(got.detail) <= MAX_DETAIL_CHARS


header_names = st.sampled_from(["content-type", "ce_id", "ce_expirytime", "lane", "traceparent", "other"])
any_headers = st.lists(
    st.tuples(
        header_names | st.text(max_size=5),
        st.none()
        | st.binary(max_size=40)
        | st.sampled_from(
            [b"application/cloudevents+json", b"application/cloudevents", b"2030-01-01T00:00:00Z"]
        ),
    ),
    max_size=5,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=15,
)
FIELDS = tuple(QueryEvent.model_fields)
field_names = st.sampled_from([*FIELDS, "data", "id", "specversion"])
plausible_values = json_values | st.sampled_from(["1", "1.0", "q-1", "prod", "2030-01-01T00:00:00Z", 1, 250])
near_misses = st.dictionaries(
    field_names, plausible_values | st.dictionaries(field_names, plausible_values), max_size=8
)


@pytest.mark.fault(29)
@given(value=st.none() | st.binary(max_size=200), key=st.none() | st.binary(max_size=20), headers=any_headers)
def test_arbitrary_bytes_do_not_raise(value: bytes | None, key: bytes | None, headers: list[Any]) -> None:
    """Arbitrary bytes are a query or a reason."""
    check(decode(PlainRecord("t", 0, 0, -1, key, value, headers), LIMITS), LIMITS)


@pytest.mark.fault(29)
@given(value=json_values | near_misses, headers=any_headers)
def test_arbitrary_json_does_not_raise(value: Any, headers: list[Any]) -> None:
    """Arbitrary JSON, also with a query's field names, is a query or a reason."""
    limits = DecodeLimits(lanes=frozenset({"prod", "canary"}))
    check(read(value, *headers, limits=limits), limits)


@pytest.mark.fault(29)
@given(
    field=st.sampled_from(FIELDS),
    secret=st.text(st.characters(codec="ascii", categories=["Lu", "Ll"]), min_size=16, max_size=600),
    wrap=st.sampled_from([lambda s: s + " ", lambda s: [s], lambda s: {s: s}, lambda s: {s: [s]}]),
)
def test_the_detail_never_echoes(field: str, secret: str, wrap: Any) -> None:
    """No word of the payload, as key or value of any form, appears in the detail."""
    got = read({**query(), field: wrap(secret), secret: 1})
    if isinstance(got, Unreadable):
        assert secret[:16] not in got.detail
        assert len(got.detail) <= MAX_DETAIL_CHARS


@given(
    query_id=st.from_regex(r"[A-Za-z0-9._:-]{1,128}", fullmatch=True),
    user_input=st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    form=st.sampled_from(["bare", "binary", "structured"]),
)
def test_every_valid_query_is_read_in_every_form(query_id: str, user_input: str, form: str) -> None:
    """The three forms carry the same query."""
    fields = {"query_id": query_id, "user_input": user_input}
    if form == "bare":
        got = read(fields)
    elif form == "binary":
        got = read(
            {"user_input": user_input}, ("ce_id", query_id.encode()), ("content-type", b"application/json")
        )
    else:
        got = read(envelope({"user_input": user_input}, id=query_id), STRUCTURED)
    assert isinstance(got, Readable)
    assert (got.event.query_id, got.event.user_input) == (query_id, user_input)
