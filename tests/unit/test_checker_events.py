"""The checker looks at everything in every event: each part of one is changed, and that is found."""

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
    """The kinds of violations that there are."""
    return set(found(judge(planted.made())))


@pytest.mark.parametrize(("offset", "kind"), KINDS)
@pytest.mark.parametrize("value", [b"", b"rubbish", b"{}", b"[" * 100_000, b"\xff\xfe", b"7"])
def test_rubbish_in_the_place_of_a_value(offset: int, kind: str, value: bytes) -> None:
    """A value that is not its model is found, whatever bytes it has."""
    planted = clean()
    planted.event(offset, kind).value = value
    assert "malformed" in kinds_found(planted)


@pytest.mark.parametrize(("offset", "kind"), KINDS)
def test_each_field_is_needed_and_no_other(offset: int, kind: str) -> None:
    """An event without one of its fields is found, and one with a field more."""
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
    """An event with another key is found: it may be in another partition."""
    planted = clean()
    planted.event(offset, kind).key = key
    assert found(judge(planted.made())) == {"malformed": 1}


def test_a_record_without_a_key_lends_its_id() -> None:
    """Where a record has no key, its events have its id."""
    planted = clean()
    planted.queries[0] = planted.queries[0]._replace(key=None)
    assert judge(planted.made()).silent
    planted.event(0).key = None
    assert found(judge(planted.made())) == {"malformed": 1}


@pytest.mark.parametrize(("offset", "kind"), KINDS)
def test_each_header_is_looked_at(offset: int, kind: str) -> None:
    """A header that is missing, or says something else, is found; so is one that the contract lacks."""
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


def test_the_status_header_and_headers_that_are_there_twice() -> None:
    """A result's header says its status; no header is there twice."""
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
    """Status, answer, verdict, node follow from the stages; id, lane, source from the record."""
    planted = clean()
    event = planted.event(0)
    event.value[name] = FIELDS[name]
    for header, field in {"status": "status", "lane": "lane", "ce_time": "finished_at"}.items():
        event.headers[header] = event.value[field]
    assert kinds_found(planted) & {"malformed", "incomplete"}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_that_contradict_the_stages(name: str) -> None:
    """What a result counts is what its stages say."""
    planted = clean()
    planted.event(0).value["metrics"][name] = FIGURES[name]
    assert found(judge(planted.made())) == {"malformed": 1}


@pytest.mark.parametrize("name", STAGE_FIELDS)
def test_a_stage_result_that_is_not_the_one_in_the_result(name: str) -> None:
    """Every field of a stage result is that of the stage in the result."""
    planted = clean()
    planted.event(0, "stage_result/3").value[name] = STAGE_FIELDS[name]
    assert "incomplete" in kinds_found(planted)


@pytest.mark.parametrize("number", range(5))
def test_each_stage_result_is_missed(number: int) -> None:
    """A query that started has five."""
    planted = clean()
    planted.events.remove(planted.event(0, f"stage_result/{number}"))
    planted.history.commits.clear()
    assert found(judge(planted.made())) == {"incomplete": 1}


@pytest.mark.parametrize(("offset", "kind"), KINDS[2:])
def test_each_timeout_is_missed(offset: int, kind: str) -> None:
    """A stage's, the pipeline's and the queue's."""
    planted = clean()
    planted.events.remove(planted.event(offset, kind))
    planted.history.commits.clear()
    assert found(judge(planted.made())) == {"incomplete": 1}


def failed_over() -> Planted:
    """A query of which one node was not in time, and another one answered."""
    planted = clean()
    fail_over(planted, 0)
    planted.history.commits.clear()
    return planted


def test_a_timeout_of_an_attempt_that_another_followed_is_missed() -> None:
    """The query was answered in time; its attempts say what events it has."""
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
    """They follow from each other, the last is the stage's, and a timeout says what its attempt says."""
    planted = failed_over()
    for stage in (planted.event(0).value["stages"][2], planted.event(0, "stage_result/2").value):
        stage["attempts"][number].update(fields)
    report = judge(planted.made())
    assert set(found(report)) & {"incomplete", "malformed"} or report.surplus == {"timeouts": 1}


def test_attempts_that_are_missing() -> None:
    """As many as the stage's number says."""
    planted = failed_over()
    for stage in (planted.event(0).value["stages"][2], planted.event(0, "stage_result/2").value):
        del stage["attempts"][0]
    assert "malformed" in kinds_found(planted)


@pytest.mark.parametrize("name", TIMEOUT_FIELDS)
def test_a_timeout_that_says_something_else(name: str) -> None:
    """Scope, stage, limits and times of a timeout are those of the stage in the result."""
    planted = clean()
    event = planted.event(SLOW, "timeout/2")
    event.value[name] = TIMEOUT_FIELDS[name]
    event.headers["ce_time"] = event.value["occurred_at"]
    assert "incomplete" in kinds_found(planted)


def test_a_timeout_of_a_query_that_was_in_time() -> None:
    """Where nothing was run twice it is one too many; else it may be of a run that has no result."""
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
    """Also where the query had none."""
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
    """A byte less."""
    return letter._replace(value=(letter.value or b"")[1:])


def change_key(letter: Record) -> Record:
    """A key that its record does not have."""
    return letter._replace(key=b"other")


def lose_trace(letter: Record) -> Record:
    """One of the record's own headers is gone."""
    return letter._replace(headers=letter.headers[:-1])


def keep_too_much(letter: Record) -> Record:
    """A header that is not kept."""
    return letter._replace(headers=(*letter.headers, ("x-own", b"1")))


def change_reason(letter: Record) -> Record:
    """A reason that is none."""
    return letter._replace(headers=(("dlq.reason", b"no idea"), *letter.headers[1:]))


def say_too_much(letter: Record) -> Record:
    """A detail that is too long."""
    detail = ("dlq.detail", b"x" * 513)
    return letter._replace(headers=(letter.headers[0], detail, *letter.headers[2:]))


def move(letter: Record) -> Record:
    """It says that it was in another topic."""
    headers = [(name, b"other" if name == "dlq.topic" else text) for name, text in letter.headers]
    return letter._replace(headers=tuple(headers))


def mistime(letter: Record) -> Record:
    """Another time than its record's."""
    headers = [(name, b"7" if name == "dlq.timestamp" else text) for name, text in letter.headers]
    return letter._replace(headers=tuple(headers))


@pytest.mark.parametrize(
    "change",
    [change_value, change_key, lose_trace, keep_too_much, change_reason, say_too_much, move, mistime],
)
def test_a_dead_letter_is_its_record(change: Callable[[Record], Record]) -> None:
    """Value, key and headers are its record's, and it says where that was, when, and why."""
    planted = clean()
    planted.letters[1] = change(planted.letters[1])
    assert "malformed" in kinds_found(planted)


def test_a_rejection_without_its_dead_letter() -> None:
    """A result that says that its record could not be read wants a dead letter."""
    planted = clean()
    planted.history.rejects = None
    planted.history.commits.clear()
    del planted.letters[1]
    assert found(judge(planted.made())) == {"incomplete": 1}
    assert planted.letters[0].at == (0, 0)
    assert planted.queries[UNREADABLE].value == planted.letters[0].value
    assert planted.event(REJECTED).value["error_type"] == "invalid_query"


@pytest.mark.parametrize("value", [None, b"", b"[" * 100_000, b"\xff", b'"\xed\xa0\x80"', b"9" * 10_000])
def test_whatever_bytes_are_in_the_topic_of_the_queries(value: bytes | None) -> None:
    """A record that no parser here can read is a record without an id."""
    planted = clean()
    planted.queries[UNREADABLE] = planted.queries[UNREADABLE]._replace(value=value)
    planted.letters[0] = planted.letters[0]._replace(value=value)
    assert not isinstance(parsed(value), dict)
    assert judge(planted.made()).silent


def test_what_kafka_keeps_of_a_commit() -> None:
    """Both forms of the record are read: texts with a length of two bytes, and of variable size."""
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
