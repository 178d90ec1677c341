"""The checker checks every part of every event: each changed part is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.checker import Record, judge
from support.commits import Commit, commit_of, partition_of
from support.reading import parsed

from .histories import EXPIRED, OVER, REJECTED, SLOW, UNREADABLE, Planted, clean, fail_over, rerun
from .test_checker import found

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = [(0, "result"), (0, "stage_result/3"), (SLOW, "timeout/2"), (OVER, "timeout"), (EXPIRED, "timeout")]
HEADERS = {
    "ce_specversion": "0.3",
    "ce_id": "in/0/0/other",
    "ce_source": "fivestage",
    "ce_type": "fivestage.other.v1",
    "ce_subject": "q1",
    "ce_time": "yesterday",
    "ce_correlationid": "q1",
    "ce_causationid": "in/0/1",
    "content-type": "text/plain",
    "traceparent": "00-00000000000000000000000000000abc-00f067aa0ba902b7-01",
    "lane": "canary",
}
FIELDS: dict[str, Any] = {
    "query_id": "q1",
    "status": "timeout",
    "answer": "another",
    "degraded": True,
    "validated": False,
    "partial": True,
    "error_type": "timeout",
    "node": "another",
    "lane": "canary",
    "source": {"topic": "in", "partition": 0, "offset": 1},
    "schema_version": "2",
    "stages": [],
    "finished_at": "2020-01-01T00:00:00Z",
}
FIGURES = {
    "stages_completed": 4,
    "stages_failed": 1,
    "stages_skipped": 1,
    "timeout_count": 1,
    "within_budget": False,
    "stage_durations": {},
}
STAGE_FIELDS: dict[str, Any] = {
    "query_id": "q1",
    "stage_type": "intent",
    "sequence": 2,
    "outcome": "error",
    "success": False,
    "critical": True,
    "data": "another",
    "duration_ms": 21.0,
    "started_at": None,
}
TIMEOUT_FIELDS: dict[str, Any] = {
    "scope": "queue",
    "reason": "expired_before_start",
    "stage_type": "intent",
    "node": "another",
    "limit_ms": 1.0,
    "elapsed_ms": 1.0,
    "completed": [],
    "occurred_at": "2020-01-01T00:00:00Z",
}


def kinds_found(planted: Planted) -> set[str]:
    """Return the kinds of violations found."""
    return set(found(judge(planted.made())))


@pytest.mark.parametrize(("offset", "kind"), KINDS)
@pytest.mark.parametrize("value", [b"", b"rubbish", b"{}", b"[" * 100_000, b"\xff\xfe", b"7"])
def test_rubbish_in_the_place_of_a_value(offset: int, kind: str, value: bytes) -> None:
    """A value that does not match its model is found, whatever its bytes."""
    planted = clean()
    planted.event(offset, kind).value = value
    assert "malformed" in kinds_found(planted)


@pytest.mark.parametrize(("offset", "kind"), KINDS)
def test_each_field_is_needed_and_no_other(offset: int, kind: str) -> None:
    """An event without one of its fields, or with another one, is found."""
    for name in clean().event(offset, kind).value:
        planted = clean()
        del planted.event(offset, kind).value[name]
        assert "malformed" in kinds_found(planted), name
    planted = clean()
    planted.event(offset, kind).value["more"] = 1
    assert "malformed" in kinds_found(planted)


@pytest.mark.parametrize(("offset", "kind"), KINDS)
@pytest.mark.parametrize("key", [b"constant", None, b""])
def test_each_event_has_the_key_of_its_record(offset: int, kind: str, key: bytes | None) -> None:
    """An event with another key, and so perhaps in another partition, is found."""
    planted = clean()
    planted.event(offset, kind).key = key
    assert found(judge(planted.made())) == {"malformed": 1}


def test_a_record_without_a_key_lends_its_id() -> None:
    """Events of a record without a key have its id as key."""
    planted = clean()
    planted.queries[0] = planted.queries[0]._replace(key=None)
    assert judge(planted.made()).silent
    planted.event(0).key = None
    assert found(judge(planted.made())) == {"malformed": 1}


@pytest.mark.parametrize(("offset", "kind"), KINDS)
def test_each_header_is_checked(offset: int, kind: str) -> None:
    """A missing, changed or additional header is found."""
    for name, other in HEADERS.items():
        planted = clean()
        planted.event(offset, kind).headers[name] = other
        assert "malformed" in kinds_found(planted), name
        planted = clean()
        del planted.event(offset, kind).headers[name]
        assert "malformed" in kinds_found(planted), name
    planted = clean()
    planted.event(offset, kind).headers["x-own"] = "1"
    assert found(judge(planted.made())) == {"malformed": 1}


def test_the_status_header_and_repeated_headers() -> None:
    """The status header matches the result, and no header is repeated."""
    for status in ("error", None):
        planted = clean()
        planted.event(0).headers.pop("status")
        planted.event(0).headers |= {"status": status} if status else {}
        assert found(judge(planted.made())) == {"malformed": 1}
    history = clean().made()
    record = history.outputs["results"][0]
    history.outputs["results"][0] = record._replace(headers=(*record.headers, record.headers[-1]))
    assert found(judge(history)) == {"malformed": 1}


@pytest.mark.parametrize("name", FIELDS)
def test_a_result_that_contradicts_its_stages_or_record(name: str) -> None:
    """Status, answer, verdict and node must follow from the stages; id, lane and source from the record."""
    planted = clean()
    event = planted.event(0)
    event.value[name] = FIELDS[name]
    for header, field in {"status": "status", "lane": "lane", "ce_time": "finished_at"}.items():
        event.headers[header] = event.value[field]
    assert kinds_found(planted) & {"malformed", "incomplete"}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_that_contradict_the_stages(name: str) -> None:
    """The counts of a result must match its stages."""
    planted = clean()
    planted.event(0).value["metrics"][name] = FIGURES[name]
    assert found(judge(planted.made())) == {"malformed": 1}


@pytest.mark.parametrize("name", STAGE_FIELDS)
def test_a_stage_result_that_is_not_the_one_in_the_result(name: str) -> None:
    """Each field of a stage result must match the stage in the result."""
    planted = clean()
    planted.event(0, "stage_result/3").value[name] = STAGE_FIELDS[name]
    assert "incomplete" in kinds_found(planted)


@pytest.mark.parametrize("number", range(5))
def test_a_missing_stage_result_is_found(number: int) -> None:
    """A missing stage result of a started query is found."""
    planted = clean()
    planted.events.remove(planted.event(0, f"stage_result/{number}"))
    planted.history.commits.clear()
    assert found(judge(planted.made())) == {"incomplete": 1}


@pytest.mark.parametrize(("offset", "kind"), KINDS[2:])
def test_a_missing_timeout_is_found(offset: int, kind: str) -> None:
    """A missing timeout of a stage, the pipeline or the queue is found."""
    planted = clean()
    planted.events.remove(planted.event(offset, kind))
    planted.history.commits.clear()
    assert found(judge(planted.made())) == {"incomplete": 1}


def failed_over() -> Planted:
    """Build a query whose first node timed out and whose second answered."""
    planted = clean()
    fail_over(planted, 0)
    planted.history.commits.clear()
    return planted


def test_a_timeout_of_an_attempt_that_another_followed_is_missed() -> None:
    """A missing timeout event of an attempt is found although the query succeeded."""
    planted = failed_over()
    report = judge(planted.made())
    assert (report.silent, report.surplus) == (True, {})
    planted.events.remove(planted.event(0, "timeout/2"))
    assert found(judge(planted.made())) == {"incomplete": 1}


@pytest.mark.parametrize(
    ("number", "fields"),
    [
        (0, {"node": "work"}),
        (0, {"outcome": "error"}),
        (0, {"outcome": "skipped"}),
        (0, {"kind": "failover"}),
        (0, {"duration_ms": 31.0}),
        (0, {"timeout_ms": 31.0}),
        (0, {"more": 1}),
        (1, {"kind": "first"}),
        (1, {"kind": "resumed"}),
        (1, {"node": "other"}),
        (1, {"outcome": "error"}),
        (1, {"duration_ms": 21.0}),
        (1, {"timeout_ms": 121.0}),
        (1, {"waited_ms": -1.0}),
    ],
)
def test_attempts_that_say_something_else(number: int, fields: dict[str, Any]) -> None:
    """Attempts are consecutive, the last is the stage's, and timeouts match theirs."""
    planted = failed_over()
    for stage in (planted.event(0).value["stages"][2], planted.event(0, "stage_result/2").value):
        stage["attempts"][number].update(fields)
    report = judge(planted.made())
    assert set(found(report)) & {"incomplete", "malformed"} or report.surplus == {"timeouts": 1}


def test_attempts_that_are_missing() -> None:
    """A stage has as many attempts as its number says."""
    planted = failed_over()
    for stage in (planted.event(0).value["stages"][2], planted.event(0, "stage_result/2").value):
        del stage["attempts"][0]
    assert "malformed" in kinds_found(planted)


@pytest.mark.parametrize("name", TIMEOUT_FIELDS)
def test_a_timeout_that_says_something_else(name: str) -> None:
    """Scope, stage, limits and times of a timeout match the stage in the result."""
    planted = clean()
    event = planted.event(SLOW, "timeout/2")
    event.value[name] = TIMEOUT_FIELDS[name]
    event.headers["ce_time"] = event.value["occurred_at"]
    assert "incomplete" in kinds_found(planted)


def test_a_timeout_of_a_query_that_was_in_time() -> None:
    """A timeout without a late query is found, unless a second run may have no result."""
    planted = clean()
    event = planted.event(SLOW, "timeout/2").again(query_id="q0")
    event.value["source"]["offset"] = 0
    event.headers |= {"ce_id": "in/0/0/timeout/2", "ce_subject": "q0", "ce_correlationid": "q0"}
    event.headers |= {"ce_causationid": "in/0/0", "traceparent": planted.event(0).headers["traceparent"]}
    event.key = b"q0"
    planted.events.append(event)
    report = judge(planted.made())
    assert report.silent, report
    assert report.surplus == {"timeouts": 1}


def test_the_events_of_one_run_have_one_trace() -> None:
    """All events of one run have one trace, also where the query had none."""
    planted = clean()
    planted.queries[0] = planted.queries[0]._replace(headers=())
    assert judge(planted.made()).silent
    planted.event(0, "stage_result/1").headers["traceparent"] = HEADERS["traceparent"]
    assert "incomplete" in kinds_found(planted)


def test_one_run_must_be_whole() -> None:
    """Of two runs one may lack events, as its instance was killed; but not both."""
    planted = clean()
    planted.history.commits.clear()
    rerun(planted, 0)
    first, second = [event for event in planted.of(0) if event.kind == "stage_result/2"]
    planted.events.remove(first)
    assert judge(planted.made()).silent
    planted.events.remove(second)
    assert found(judge(planted.made())) == {"incomplete": 1}


def change_value(letter: Record) -> Record:
    """Drop a byte of the value."""
    return letter._replace(value=(letter.value or b"")[1:])


def change_key(letter: Record) -> Record:
    """Use a key that the record does not have."""
    return letter._replace(key=b"other")


def lose_trace(letter: Record) -> Record:
    """Drop one of the record's own headers."""
    return letter._replace(headers=letter.headers[:-1])


def keep_too_much(letter: Record) -> Record:
    """Keep a header that is to be dropped."""
    return letter._replace(headers=(*letter.headers, ("x-own", b"1")))


def change_reason(letter: Record) -> Record:
    """Use an unknown reason."""
    return letter._replace(headers=(("dlq.reason", b"no idea"), *letter.headers[1:]))


def say_too_much(letter: Record) -> Record:
    """Use a detail that is too long."""
    detail = ("dlq.detail", b"x" * 513)
    return letter._replace(headers=(letter.headers[0], detail, *letter.headers[2:]))


def move(letter: Record) -> Record:
    """Name another topic."""
    headers = [(name, b"other" if name == "dlq.topic" else text) for name, text in letter.headers]
    return letter._replace(headers=tuple(headers))


def mistime(letter: Record) -> Record:
    """Use another time than the record's."""
    headers = [(name, b"7" if name == "dlq.timestamp" else text) for name, text in letter.headers]
    return letter._replace(headers=tuple(headers))


@pytest.mark.parametrize(
    "change",
    [change_value, change_key, lose_trace, keep_too_much, change_reason, say_too_much, move, mistime],
)
def test_a_dead_letter_is_its_record(change: Callable[[Record], Record]) -> None:
    """Value, key, headers, place, time and reason of a dead letter must match its record."""
    planted = clean()
    planted.letters[1] = change(planted.letters[1])
    assert "malformed" in kinds_found(planted)


def test_a_rejection_without_its_dead_letter() -> None:
    """A rejection without its dead letter is found."""
    planted = clean()
    planted.history.rejects = None
    planted.history.commits.clear()
    del planted.letters[1]
    assert found(judge(planted.made())) == {"incomplete": 1}
    assert planted.letters[0].at == (0, 0)
    assert planted.queries[UNREADABLE].value == planted.letters[0].value
    assert planted.event(REJECTED).value["error_type"] == "invalid_query"


@pytest.mark.parametrize("value", [None, b"", b"[" * 100_000, b"\xff", b'"\xed\xa0\x80"', b"9" * 10_000])
def test_any_bytes_in_the_topic_of_the_queries(value: bytes | None) -> None:
    """An unparsable record is one without an id."""
    planted = clean()
    planted.queries[UNREADABLE] = planted.queries[UNREADABLE]._replace(value=value)
    planted.letters[0] = planted.letters[0]._replace(value=value)
    assert not isinstance(parsed(value), dict)
    assert judge(planted.made()).silent


def test_commit_records_of_kafka() -> None:
    """Both forms of a commit record are read: texts with two-byte lengths, and with varints."""
    key = b"\x00\x01\x00\x02gg\x00\x01t\x00\x00\x00\x03"
    moment = (1_795_742_697_910).to_bytes(8, "big")
    old = b"\x00\x03" + (7).to_bytes(8, "big") + b"\x00\x00\x00\x00\x00\x04meta" + moment
    new = b"\x00\x04" + (7).to_bytes(8, "big") + b"\x00\x00\x00\x00\x05meta" + moment + b"\x00"
    for value in (old, new):
        assert commit_of(key, value, "gg", "t") == Commit(3, 7, 1_795_742_697_910)
    assert commit_of(key, None, "gg", "t") == Commit(3, None, 0)
    assert commit_of(key, old, "other", "t") is None
    assert commit_of(b"\x00\x02\x00\x02gg", b"members", "gg", "t") is None
    assert partition_of("gg", 5) == 1
    assert partition_of("tb47cff0cea8b", 5) == 1  # its hash is negative
