"""Mistakes planted in the real encoder one at a time: the judge must find each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import orjson

from fivestage.core.codec import encode
from fivestage.core.codec.encode import Encoder
from fivestage.core.records import Output, OutputRecord
from fivestage_schemas import headers as h

if TYPE_CHECKING:
    from collections.abc import Callable

    Records = list[OutputRecord]
    Change = Callable[[OutputRecord], OutputRecord]
    Plant = Callable[[], list[Any]]

STAGES, RESULTS, TIMEOUTS, LETTERS = Output
EVENTS = (STAGES, RESULTS, TIMEOUTS)
STARTED, EXPIRED, UNREADABLE = "concluded", "expired", "unreadable"
"""The encoder's methods, one per kind of outcome."""


def instead(change: Callable[[Records], Records], *methods: str) -> list[Any]:
    """Replace the records that some or all of the encoder's methods return."""

    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrongly(encoder: Encoder, *args: Any) -> Any:
            made = original(encoder, *args)
            return (change(made[0]), *made[1:]) if isinstance(made, tuple) else change(made)

        return wrongly

    chosen = methods or (STARTED, EXPIRED, UNREADABLE)
    return [patch.object(Encoder, name, wrapped(getattr(Encoder, name))) for name in chosen]


def lost(output: Output, *methods: str, first: int | None = None) -> Plant:
    """Drop records of a topic: all, or the *first* of them."""

    def lose(records: Records) -> Records:
        gone = [id(one) for one in records if one.output is output][:first]
        return [one for one in records if id(one) not in gone]

    return lambda: instead(lose, *methods)


def each(change: Change, *outputs: Output) -> Plant:
    """Change the records of some topics."""
    return lambda: instead(lambda records: [change(one) if one.output in outputs else one for one in records])


def value(change: Callable[[dict[str, Any]], object], *outputs: Output) -> Plant:
    """Change the values of some topics."""

    def changed(record: OutputRecord) -> OutputRecord:
        said = orjson.loads(record.value or b"")
        change(said)
        return record._replace(value=orjson.dumps(said))

    return each(changed, *outputs)


def headed(record: OutputRecord, change: Callable[[dict[str, bytes]], object]) -> OutputRecord:
    """Return the same record with other headers."""
    named = dict(record.headers)
    change(named)
    return OutputRecord.of(record.output, record.key, record.value, list(named.items()))


def headers(change: Callable[[dict[str, bytes]], object], *outputs: Output) -> Plant:
    """Change the headers of some topics."""
    return each(lambda record: headed(record, change), *outputs)


def without(name: str, *outputs: Output) -> Plant:
    """Drop a header."""
    return headers(lambda named: named.pop(name, None), *outputs)


def redirected(topics: dict[Output, Output]) -> Plant:
    """Send records to the topics of others."""
    return each(lambda record: record._replace(output=topics[record.output]), *topics)


def another_answer() -> list[Any]:
    """Answer a query with the answer of the one before it."""
    before: list[Any] = []

    def change(said: dict[str, Any]) -> None:
        if said["answer"] is not None:
            before.append(said["answer"])
            said["answer"] = before[-2:][0]

    return value(change, RESULTS)()


def answered_twice() -> list[Any]:
    """Publish a result a second time, under another id."""

    def again(record: OutputRecord) -> OutputRecord:
        return headed(record, lambda named: named.update({h.CE_ID: named[h.CE_ID] + b"/2"}))

    return instead(lambda records: [*records, *[again(one) for one in records if one.output is RESULTS]])


def keyless_by_offset() -> list[Any]:
    """Give events about records without keys another key than the query's id."""
    return [patch.object(encode, "output_key", lambda record, _: record.key or b"%d" % record.offset)]


def next_sequence(named: dict[str, bytes]) -> None:
    """Give a stage result the id of the next stage."""
    start, number = named[h.CE_ID].rsplit(b"/", 1)
    named[h.CE_ID] = b"%b/%d" % (start, int(number) + 1)


def other_lane(said: dict[str, Any]) -> None:
    """Mix up two lanes."""
    said["lane"] = {"prod": "canary", "canary": "prod"}.get(said["lane"], said["lane"])


def first_timeout_succeeded(said: dict[str, Any]) -> None:
    """Report success of a stage that timed out."""
    if said["outcome"] == "timeout":
        said.update(outcome="success", success=True, timeout=False, error=None, error_type=None)


def without_earlier_attempts(said: dict[str, Any]) -> None:
    """List only the last attempt in a stage result."""
    said["attempts"] = said["attempts"][-1:]


def with_the_id_of_the_first_attempt(named: dict[str, bytes]) -> None:
    """Give a later attempt's timeout the id of the first one's."""
    start, _ = named[h.CE_ID].rsplit(b"/", 1)
    if b"/timeout/" in start:
        named[h.CE_ID] = start


def lost_where_answered() -> list[Any]:
    """Drop a timeout where the query was answered all the same."""

    def lose(records: Records) -> Records:
        answered = any(dict(one.headers).get(h.STATUS) == b"success" for one in records)
        return [one for one in records if not (answered and b"/timeout/2" in dict(one.headers)[h.CE_ID])]

    return instead(lose, STARTED)


TAMPERED: dict[str, Plant] = {
    "timeouts lost": lost(TIMEOUTS, STARTED),
    "timeout lost where another node answered": lost_where_answered,
    "timeouts of attempts share an id": headers(with_the_id_of_the_first_attempt, TIMEOUTS),
    "earlier attempts are not listed": value(without_earlier_attempts, STAGES),
    "attempts are all the first": value(
        lambda said: [one.update(kind="first") for one in said["attempts"]], STAGES
    ),
    "expired without its timeout": lost(TIMEOUTS, EXPIRED),
    "stage result lost": lost(STAGES, first=1),
    "rejection lost": lost(RESULTS, UNREADABLE),
    "result lost": lost(RESULTS, STARTED),
    "dead letter lost": lost(LETTERS, UNREADABLE),
    "dead letter changed": each(lambda one: one._replace(value=(one.value or b"") + b" "), LETTERS),
    "dead letter without key": each(lambda one: one._replace(key=None), LETTERS),
    "dead letter without its own headers": without(h.CE_ID, LETTERS),
    "dead letter without a reason's place": without(h.DLQ_TOPIC, LETTERS),
    "values are rubbish": each(lambda one: one._replace(value=b'{"schema_version":"1"}'), *EVENTS),
    "values are no JSON": each(lambda one: one._replace(value=b"rubbish"), *EVENTS),
    "answer of another query": another_answer,
    "answered twice": answered_twice,
    "constant key": each(lambda one: one._replace(key=b"key"), *EVENTS),
    "keyless by offset": keyless_by_offset,
    "sequence off by one": headers(next_sequence, STAGES),
    "attempt in an id": headers(lambda named: named.update({h.CE_ID: named[h.CE_ID] + b"/2"}), STAGES),
    "lanes mixed up": value(other_lane, *EVENTS),
    "lane header of another lane": headers(lambda named: named.update({h.LANE: b"lane"}), *EVENTS),
    "status header always success": headers(lambda named: named.update({h.STATUS: b"success"}), RESULTS),
    "error_type missing": value(lambda said: said.update(error_type=None), RESULTS),
    "never partial": value(lambda said: said.update(partial=False), RESULTS),
    "never degraded": value(lambda said: said.update(degraded=False), RESULTS),
    "timeout published as success": value(first_timeout_succeeded, STAGES),
    "result without stages": value(lambda said: said.update(stages=[]), RESULTS),
    "timeouts of one scope": value(lambda said: said.update(scope="pipeline"), TIMEOUTS),
    "stage results and timeouts swapped": redirected({STAGES: TIMEOUTS, TIMEOUTS: STAGES}),
    "results and stage results swapped": redirected({STAGES: RESULTS, RESULTS: STAGES}),
    "no traceparent": without(h.TRACEPARENT, *EVENTS),
    "no tracestate": without(h.TRACESTATE, *EVENTS),
    "no correlation": without(h.CE_CORRELATION_ID, *EVENTS),
    "no id": without(h.CE_ID, *EVENTS),
    "no time": without(h.CE_TIME, RESULTS),
    "no status": without(h.STATUS, RESULTS),
}
