"""The last slow, late and failed queries."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from fivestage.observability.status.recent import (
    FAILED_S,
    KINDS,
    MAX_QUERIES,
    OF_EACH_KIND,
    SLOWEST,
    RecentQueries,
)
from fivestage_schemas import TimeoutReason
from unit.core.samples import (
    ERROR,
    PROCESSING,
    STARTED_AT,
    SUCCESS,
    TIMEOUT,
    concluded,
    ended,
    envelope,
    history_of,
    run_of,
)

CANARY = "canary-4711"
TRACEPARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def look(
    recent: RecentQueries, query_id: str, outcome: Any = SUCCESS, *, took_s: float = 0.05, **fields: Any
) -> None:
    """Show it a query whose processing ends so."""
    runs = [*ended([SUCCESS] * 2), run_of(PROCESSING, outcome, **{"node": "math", **fields})]
    if outcome is SUCCESS:
        runs += ended([SUCCESS] * 5)[3:]
    query = envelope(query_id=query_id, trace_headers=(("traceparent", TRACEPARENT),))
    recent.look(query, concluded(history_of(runs), after_s=took_s), CANARY)


def ids(recent: RecentQueries) -> set[str]:
    """Return the ids of all kept queries."""
    return {kept.envelope.query_id for kept in recent.newest_first()}


def test_a_failed_query_has_its_place_attempts_and_reason() -> None:
    """The class of the exception and the line of the author's code; neither texts nor data."""
    recent = RecentQueries(show_text=False)
    look(recent, "q-1", ERROR, error=CANARY, error_type="ConnectionError", where="/app/pricing.py:31")
    [kept] = recent.newest_first()
    found = kept.document()
    assert found["why"] == "processing (math) failed with ConnectionError after 10 ms"
    assert (found["query_id"], found["status"], found["stage"], found["node"]) == (
        "q-1",
        "error",
        "processing",
        "math",
    )
    assert (found["error_type"], found["where"]) == ("ConnectionError", "/app/pricing.py:31")
    assert found["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert found["at"] == "2025-06-15T15:06:40.550000Z"
    assert [attempt["stage"] for attempt in found["attempts"]][:3] == ["intent", "decision", "processing"]
    assert found["attempts"][3]["start_ms"] is None
    assert found["text"] is None
    assert CANARY not in repr(found)
    assert b'"of"' not in orjson.dumps(found)


def test_text_is_kept_only_if_wanted() -> None:
    """With admin.show_text."""
    recent = RecentQueries(show_text=True)
    look(recent, "q-1", ERROR)
    assert recent.newest_first()[0].document()["text"] == CANARY


def test_queries_that_were_not_started() -> None:
    """With reason and age; of a backlog the last ones, some apart."""
    recent = RecentQueries(show_text=True)
    for number in range(1000):
        query = envelope(query_id=f"q-{number}", started_at=STARTED_AT + number / 64, queue_s=2.5)
        recent.look_at_unstarted(query, TimeoutReason.WOULD_EXPIRE)
    recent.look_at_unstarted(envelope(query_id="other"), TimeoutReason.EXPIRED_BEFORE_START)
    assert ids(recent) == {"q-980", "q-987", "q-994", "other"}
    found = recent.newest_first()[0].document()
    assert found["status"] == "expired"
    assert found["queue_ms"] == 2500
    assert found["why"].startswith(
        "less time was left than an answer takes, so it was not started; it was 2500"
    )
    assert found["attempts"] == []


def test_attempts_are_in_order_with_their_times() -> None:
    """Superseded attempts come before the one that followed them."""
    history = history_of(ended([SUCCESS] * 2))
    history.fail_over(
        run_of(PROCESSING, ERROR, at=STARTED_AT + 0.02, took_s=0.08, node="qa-a", where="a.py:1")
    )
    history.finish(run_of(PROCESSING, TIMEOUT, at=STARTED_AT + 0.1, took_s=0.12, node="qa-b", attempt=2))
    recent = RecentQueries(show_text=False)
    recent.look(envelope(), concluded(history, after_s=0.22), "")
    found = recent.newest_first()[0].document()
    tried = [(one["node"], one["attempt"], one["start_ms"], one["outcome"]) for one in found["attempts"][2:4]]
    assert tried == [("qa-a", 1, 20.0, "error"), ("qa-b", 2, 100.0, "timeout")]
    assert found["where"] == "a.py:1"


def test_a_retry_is_named_with_its_wait() -> None:
    """Each attempt says why it was made; the first attempt at the next stage is a first one again."""
    recent, history = RecentQueries(show_text=False), history_of(ended([SUCCESS] * 2))
    for number, node in enumerate(("a", "a", "b"), start=1):
        failed = run_of(PROCESSING, ERROR, node=node, attempt=number, at=STARTED_AT + number * 0.01)
        failed.waited_s = 0.004 * number
        history.fail_over(failed)
    recent.look(envelope(query_id="q"), concluded(history), CANARY)
    [kept] = recent.newest_first()
    attempts = [(one["stage"], one["kind"], one["waited_ms"]) for one in kept.document()["attempts"][1:6]]
    assert attempts == [
        ("decision", "first", 0.0),
        ("processing", "first", 4.0),
        ("processing", "retry", 8.0),
        ("processing", "failover", 12.0),
        ("validation", "first", 0.0),
    ]


def test_the_slowest_answers_are_kept() -> None:
    """Of many slow ones the slowest, whichever came first; they are forgotten after ten minutes."""
    recent = RecentQueries(show_text=False)
    for number in range(100):
        look(recent, f"q-{number}", took_s=0.13 + ((number * 37) % 100) / 1000)
    slowest = sorted(range(100), key=lambda number: -((number * 37) % 100))[:SLOWEST]
    assert ids(recent) == {f"q-{number}" for number in slowest}
    recent.forget(STARTED_AT)
    look(recent, "later", took_s=0.13)
    assert len(ids(recent)) == SLOWEST + 1
    recent.forget(STARTED_AT)
    assert ids(recent) == {"later"}


def test_old_failures_are_forgotten() -> None:
    """After an hour, each for itself."""
    recent = RecentQueries(show_text=False)
    look(recent, "late", TIMEOUT, took_s=0.2)
    look(recent, "failed", ERROR, took_s=0.1)
    recent.forget(STARTED_AT + FAILED_S)
    assert ids(recent) == {"late", "failed"}
    recent.forget(STARTED_AT + FAILED_S + 0.15)
    assert ids(recent) == {"late"}


def test_what_happens_often_does_not_push_out_what_is_rare() -> None:
    """A flood of one failure leaves other failures and the slow answers."""
    recent = RecentQueries(show_text=False)
    look(recent, "slow", took_s=0.2)
    look(recent, "late", TIMEOUT)
    look(recent, "rare", ERROR, error_type="KeyError")
    for number in range(10_000):
        look(recent, f"often-{number}", ERROR, error_type="ConnectionError")
    expected = {f"often-{number}" for number in range(10_000 - OF_EACH_KIND, 10_000)}
    assert ids(recent) == {"slow", "late", "rare"} | expected


@pytest.mark.parametrize("show_text", [True, False])
def test_the_number_is_bounded(show_text: bool) -> None:  # noqa: FBT001
    """Authors choose the classes of exceptions; the kinds that occurred last are kept."""
    recent = RecentQueries(show_text=show_text)
    for number in range(1000):
        look(recent, f"q-{number}", ERROR, error_type=f"Error{number % 500}")
        look(recent, f"slow-{number}", took_s=0.2)
    recent.forget(STARTED_AT)
    assert len(recent.newest_first()) <= MAX_QUERIES
    assert {f"q-{number}" for number in range(1000 - KINDS, 1000)} <= ids(recent)
