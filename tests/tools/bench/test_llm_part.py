"""The arithmetic of ``make bench OPTIONS="--parts llm"``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import orjson
import pytest

from fivestage import Orchestrator, Pipeline
from fivestage.core.records import Output, OutputRecord
from support.kinds import PLAN

from . import llm_virtual
from .llm import bars_of, kind_of, row_of, shown
from .llm_asyncio import wait_s
from .llm_faults import ANSWERS, SHARES, arrivals, reply
from .llm_run import ASYNCIO, ONE_RETRY, PARTIAL, RUNS, Ended, Run, ended_of

IN_TIME, LATE_S = -0.5, 0.02


def ended(number: int, status: str = "success", late_s: float = IN_TIME, **fields: object) -> Ended:
    """Build the end of a query."""
    return Ended(number, status, late_s)._replace(**fields)  # type: ignore[arg-type]


def failed(number: int, status: str, reason: str, why: str = "because") -> Ended:
    """Build the end of a query without an answer."""
    return ended(number, status, reason=reason, why=why)


def a_run(*ends: Ended, left_open: int = 0) -> Run:
    """Build a round in which the server was asked twice."""
    return Run(list(ends), {"answers": 1, "stalls": 1}, left_open, 0.004)


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (ended(0), "in time"),
        (ended(0, late_s=0.004), "in time"),
        (ended(0, partial=True), "partial"),
        (ended(0, late_s=LATE_S), "late"),
        (ended(0, late_s=LATE_S, partial=True), "late"),
        (failed(0, "timeout", "timeout"), "timeout"),
        (failed(0, "timeout", "timeout")._replace(partial=True), "timeout"),
        (failed(0, "expired", "expired"), "timeout"),
        (failed(0, "error", "ModelBusyError"), "error"),
        (failed(0, "error", "ModelUnavailableError")._replace(partial=True), "error"),
    ],
)
def test_the_column_of_a_query(end: Ended, kind: str) -> None:
    """An answer counts if it came in time; a partial one only where the query succeeded with it."""
    assert kind_of(end) == kind


def test_a_row_sums_up_all_rounds() -> None:
    """Queries, reasons, requests and CPU of the rounds are added; the latest end is that of all."""
    row = row_of(
        ASYNCIO,
        [
            a_run(ended(0), failed(1, "timeout", "timeout", "too slow")._replace(late_s=0.003)),
            a_run(ended(0, partial=True), failed(1, "error", "status 5xx", why=""), left_open=2),
        ],
    )
    assert (row.queries, row.in_time, row.partial, row.timeouts, row.late, row.errors) == (4, 1, 1, 1, 0, 1)
    assert (row.share, row.latest_ms, row.cpu_ms) == (0.5, 3.0, 2.0)
    assert (row.reasons, row.unexplained, row.left_open) == ({"timeout": 1, "status 5xx": 1}, 1, 2)
    assert (row.calls, row.why["timeout"]) == ({"answers": 2, "stalls": 2}, "too slow")


def test_the_bars() -> None:
    """As often in time as asyncio, nearly all with partial answers, and nothing unexplained, late or open."""
    good = [ended(number) for number in range(100)]
    rows = {name: row_of(name, [a_run(*good)]) for name in (ASYNCIO, ONE_RETRY, PARTIAL)}
    assert [bar.kept for bar in bars_of(rows.values(), rows.values())] == [True] * 5
    rows[ONE_RETRY] = row_of(
        ONE_RETRY, [a_run(*good[2:], ended(0, late_s=LATE_S), failed(1, "error", "Oops", why=""))]
    )
    rows[PARTIAL] = row_of(
        PARTIAL, [a_run(*good[2:], *[failed(n, "timeout", "timeout") for n in range(2)], left_open=1)]
    )
    assert [bar.kept for bar in bars_of(rows.values(), ())] == [False] * 5


def test_the_table_says_why() -> None:
    """One reason of each kind, as operators read it, for the service only."""
    end = failed(0, "error", "ModelBusyError", "the server is busy")
    text = shown({"any": [row_of(name, [a_run(end)]) for name in (ASYNCIO, ONE_RETRY)]})
    assert text.count("the server is busy") == 1


def test_the_server_does_the_same_for_all() -> None:
    """An attempt of a query gets the same each time, another attempt may get something else."""
    assert reply(1, "q7", 0) == reply(1, "q7", 0)
    assert len({reply(1, f"q{number}", attempt) for number in range(50) for attempt in range(2)}) == 100
    assert reply(1, "q7", 0) != reply(2, "q7", 0)


def test_the_shares_of_what_goes_wrong() -> None:
    """Each occurs about as often as it should."""
    kinds = Counter(reply(0, f"q{number}", 0).kind for number in range(4000))
    for kind, share in {**SHARES, ANSWERS: 1 - sum(SHARES.values())}.items():
        assert kinds[kind] / 4000 == pytest.approx(share, abs=0.015)


def test_arrivals() -> None:
    """Queries come one after the other, at the rate on average, and the same for one seed."""
    due = arrivals(1, 4000, 40.0)
    assert due == sorted(due) == arrivals(1, 4000, 40.0) != arrivals(2, 4000, 40.0)
    assert due[-1] == pytest.approx(100, rel=0.1)


def test_the_service_answers_as_often_as_asyncio() -> None:
    """In virtual time, with the same limits; with allow_partial all but a few, which say why."""
    plain, service, partial = (row_of(name, [llm_virtual.run(name, 0, 300)]) for name in RUNS)
    assert [bar.kept for bar in bars_of((plain, service, partial), ())] == [True] * 5
    assert service.in_time >= plain.in_time
    assert set(partial.reasons) <= {"ModelUnavailableError", "ModelBusyError", "node_busy"}


def test_virtual_time_repeats_itself() -> None:
    """The same seed gives the same ends."""
    first, second = (llm_virtual.run(PARTIAL, 1, 60) for _ in range(2))
    assert sorted(first.ended) == sorted(second.ended)
    assert first.calls == second.calls


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({}, 0.0), ({"Retry-After": "2"}, 2.0), ({"Retry-After": "1", "Retry-After-Ms": "200"}, 0.2)],
)
def test_asyncio_waits_as_asked(headers: dict[str, str], seconds: float) -> None:
    """The hand-written contestant reads the same headers."""
    assert wait_s(headers) == seconds


@dataclass
class Raises:
    """A node without an answer."""

    async def __call__(self, _query: object, _ctx: object) -> str:
        raise LookupError


async def test_a_failed_query_says_why() -> None:
    """The reason is the error type, with the words that ``fivestage explain`` has."""
    app = Pipeline(builtins=False)
    app.node("fails")(Raises())
    app.decision(lambda _query, _ctx: "fails")
    async with Orchestrator(app, plan=PLAN) as orchestrator:
        result = await orchestrator.process_query("any")
    record = OutputRecord(Output.RESULTS, None, orjson.dumps(result.model_dump(mode="json")), b"")
    end = ended_of(3, record, IN_TIME)
    assert (end.number, end.status, end.reason) == (3, "error", "LookupError")
    assert end.why.startswith("processing (fails) failed with LookupError after")
