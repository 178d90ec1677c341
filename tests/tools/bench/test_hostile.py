"""The verdicts on hostile and ordinary nodes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from . import hostile_app, ordinary
from .answers import Answer
from .children import Service
from .hostile_kinds import KINDS, calls_of, segment
from .hostile_run import Options, Row, judge
from .load import Segment, query_id
from .observe import Observed
from .supervisor import Life, Supervisor

if TYPE_CHECKING:
    from fivestage import Query, StageContext

STOPPED_MS, READY_MS = 3000, 5000
BUDGET_MS = 250


def a_supervisor(*, exit_codes: tuple[int, ...] = (0,), replaced: float = 0) -> Supervisor:
    """Build a supervisor of services that ended like this, with one restart from STOPPED_MS to READY_MS."""
    supervisor = Supervisor(lambda: Service("hostile_app:app", {}))
    samples = {"fivestage_rebalances_total": 1.0}
    if replaced:
        samples['fivestage_replaced_executors_total{reason="it died"}'] = replaced
    for number, code in enumerate(exit_codes):
        service = Service("hostile_app:app", {})
        service.ready_at = number * READY_MS / 1000
        supervisor.lives.append(Life(service, STOPPED_MS / 1000, code, samples))
    return supervisor


def an_answer(number: int, started_ms: float, took_ms: float = 10, *, answer: str | None = None) -> Answer:
    """Build a success, of its own query unless *answer* says otherwise."""
    name = query_id(number)
    end = started_ms + took_ms
    return Answer(name, "success", None, round(end), started_ms + BUDGET_MS, end, started_ms, answer or name)


def a_row(kind: str, queries: Segment, answers: list[Answer], supervisor: Supervisor) -> Row:
    """Build a row of queries asked every 10 ms, in a thread."""
    asked = {query_id(number): number * 10 for number in range(queries.size)}
    first = {one.query_id: one for one in answers}
    return judge(kind, "thread", "embedded", queries, Observed(asked, first, 0, supervisor))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("lazy-import", {0, 1, 2}), ("slow-log", {50, 51, 52}), ("pooled", {50}), ("leak", set())],
)
def test_slow_queries(name: str, expected: set[int]) -> None:
    """A slow call counts, and where calls wait for each other those of its time."""
    calls = {query_id(number): name + (" slow" if number == 50 else "") for number in range(99)}
    asked = {query_id(number): number * 250 for number in range(99)}
    assert KINDS[name].slow(calls, asked) == {query_id(number) for number in expected}


@pytest.mark.parametrize("name", KINDS)
def test_the_share_of_a_node(name: str) -> None:
    """The node's share of the queries is as configured, and so is the slow part of it."""
    kind = KINDS[name]
    calls = calls_of(segment(name, size=4000, share=0.05))
    assert len(calls) == 4000 * (kind.share or 0.05)
    slow = sum(text.endswith(" slow") for text in calls.values())
    assert slow == (len(calls) // kind.slow_every if kind.slow_every else 0)


def test_nodes_that_spin_in_threads_run_longer() -> None:
    """Unless a duration is given, they run 30 s in threads; in processes as other kinds."""
    sizes = {
        (kind, executor): Options(200, None, 0.05, 0).segment(kind, executor).size
        for kind in ("spin-def", "leak")
        for executor in ("thread", "process")
    }
    assert sizes == {
        ("spin-def", "thread"): 6000,
        ("spin-def", "process"): 2000,
        ("leak", "thread"): 2000,
        ("leak", "process"): 2000,
    }


def test_queries_of_a_restart_are_left_out() -> None:
    """Queries from the service's end until the next was ready, or in flight then, do not count."""
    queries = Segment(700, ["good-def"])
    answers = [an_answer(number, number * 10) for number in range(700)]
    answers[290] = an_answer(290, 2900, 900)  # was in flight
    answers[280] = an_answer(280, 5100)  # waited to be fetched, and only started afterwards
    row = a_row("spin-def", queries, answers, a_supervisor(exit_codes=(1, 0)))
    assert row.left_out == (READY_MS - STOPPED_MS) // 10 + 1 + 2  # 299 ended at the very moment
    assert row.failed_bars == []
    answers[100] = an_answer(100, 1000, 400)
    assert a_row("spin-def", queries, answers, a_supervisor(exit_codes=(1, 0))).late_max_ms == 150


def test_every_query_must_be_answered() -> None:
    """A query asked during a restart must be answered all the same."""
    answers = [an_answer(number, number * 10) for number in range(700) if number != 400]
    row = a_row("spin-def", Segment(700, ["good-def"]), answers, a_supervisor(exit_codes=(1, 0)))
    assert row.failed_bars == ["missing"]


@pytest.mark.parametrize(
    ("kind", "exit_codes", "ok"),
    [
        ("spin-def", (0,), False),
        ("spin-def", (1, 0), True),
        ("spin-def", (-9, 0), False),
        ("leak", (0,), True),
        ("leak", (1, 0), False),
    ],
)
def test_a_restart_where_it_is_expected(kind: str, exit_codes: tuple[int, ...], ok: bool) -> None:  # noqa: FBT001
    """Only code that spins in a thread ends the service, with exit code 1."""
    answers = [an_answer(number, number * 10) for number in range(100)]
    row = a_row(kind, Segment(100, ["good-def"]), answers, a_supervisor(exit_codes=exit_codes))
    assert row.failed_bars == ([] if ok else ["group"])


def test_ordinary_queries_must_succeed_too() -> None:
    """A failed query that is not slow misses a bar, and so does a replaced worker."""
    queries = segment("pooled", size=200, share=0.05)
    slow = query_id(199)
    assert calls_of(queries)[slow] == "pooled slow"
    answers = [an_answer(number, number * 10) for number in range(200)]
    answers[199] = answers[199]._replace(status="timeout")
    row = a_row("pooled", queries, answers, a_supervisor())
    assert (row.failed_bars, row.slow_ended_as) == ([], {"timeout": 1})
    answers[3] = answers[3]._replace(status="timeout")
    assert a_row("pooled", queries, answers, a_supervisor(replaced=2)).failed_bars == ["ordinary", "replaced"]


def test_an_answer_of_another_query_is_wrong() -> None:
    """A node's answer must be of its own query."""
    answers = [an_answer(number, number * 10) for number in range(200)]
    answers[3] = an_answer(3, 30, answer=query_id(2))
    row = a_row("pooled", segment("pooled", size=200, share=0.05), answers, a_supervisor())
    assert (row.wrong, row.failed_bars) == (1, ["wrong"])


class Asked:
    """A query, as far as a node uses it."""

    def __init__(self, name: str) -> None:
        self.query_id = name
        self.user_input = "pooled"


def ask(name: str) -> Any:
    """Return the answer of the node with the pool."""
    return hostile_app.pooled(cast("Query", Asked(name)), cast("StageContext", None))["answer"]


@pytest.mark.realtime
def test_rows_of_another_caller_are_found() -> None:
    """Unread rows of a connection go to the next caller, whose answer shows it."""
    assert [ask("a"), ask("b")] == ["a", "b"]
    pool = hostile_app._pool()
    for connection in [pool.get() for _ in range(pool.qsize())]:
        connection.sendall(b"c pooled\n")  # whose caller did not wait
        pool.put(connection)
    assert ask("d") == "c"
    hostile_app._pool.cache_clear()
    for connection in [pool.get() for _ in range(pool.qsize())]:
        connection.close()


def test_an_app_answers_as_often_as_plain_asyncio() -> None:
    """Less two percentage points; with a declared client no loop is blocked and no worker replaced."""
    row = ordinary.Row("shared", "thread", 500, 0.885, {}, plain=0.9)
    assert row.failed_bars == []
    assert replace(row, answered=0.87).failed_bars == ["answered"]
    assert replace(row, blocked=1, replaced=1).failed_bars == ["blocked", "replaced"]
    assert replace(row, app="cold", blocked=1, replaced=1).failed_bars == []
