"""The checker itself: it finds each anomaly in a history doctored for it, and nothing in a clean one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from support.checker import (
    Ending,
    History,
    Interval,
    Letter,
    Limits,
    Sample,
    Snapshot,
    Terminal,
    judge,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.checker import Report

LIMITS = Limits(in_flight=8, unfinished=16, rss_mb=500, late_s=0.5, written_late_s=1.0, shutdown_s=15)
QUERIES = 6


def terminal(number: int) -> Terminal:
    """The answer to query *number*, which is the record 0/number, written to 0/number of the results."""
    return Terminal(
        query_id=f"q{number}",
        ce_id=f"in/0/{number}/result",
        status="success",
        source=(0, number),
        at=(0, number),
        key=f"q{number}".encode(),
        answer=f'"a{number}"',
        started_at=1000.0 + number,
        finished_at=1000.1 + number,
        written_at=1000.2 + number,
        content=f"content {number}".encode(),
    )


def again(event: Terminal, **changes: object) -> Terminal:
    """The same query, run a minute later, written after all others."""
    later = {"started_at": 1060.0, "finished_at": 1060.1, "written_at": 1060.2, "at": (0, QUERIES)}
    return replace(event, content=b"later", **{**later, **changes})  # type: ignore[arg-type]


def clean() -> History:
    """Six queries, one after the other, and an unreadable record (0/6) after them; all is well."""
    return History(
        asked={f"q{number}" for number in range(QUERIES)},
        terminals=[terminal(number) for number in range(QUERIES)],
        letters=[Letter((0, QUERIES), (0, 0))],
        rejects={(0, QUERIES)},
        snapshots=[Snapshot({0: n}, {0: n}, {0: 0}) for n in range(QUERIES + 1)]
        + [Snapshot({0: QUERIES + 1}, {0: QUERIES}, {0: 1})],
        samples=[Sample("a", 8, 16, 100.0)],
        endings=[Ending("a", 2.0, 0)],
    )


def test_clean() -> None:
    """Nothing is found where nothing is wrong, and nothing where nothing was seen."""
    report = judge(clean(), LIMITS)
    assert report.silent, report
    assert (report.duplicates, report.statuses["success"]) == (0, QUERIES)
    assert report.lateness_s == pytest.approx([-0.15] * QUERIES)
    assert judge(History(asked=set())).silent


def lose_an_answer(history: History) -> None:
    """Query 3 has no answer."""
    del history.terminals[3]
    history.snapshots.clear()


def lose_a_letter(history: History) -> None:
    """The unreadable record has no dead letter."""
    history.letters.clear()
    history.snapshots.clear()


def answer_what_nobody_asked(history: History) -> None:
    """There is an answer to no query."""
    history.terminals.append(replace(terminal(7), query_id="q7"))


def bury_what_can_be_read(history: History) -> None:
    """A readable record has a dead letter."""
    history.letters.append(Letter((0, 2), (0, 1)))


def answer_under_two_ids(history: History) -> None:
    """One query has two event ids."""
    history.terminals.append(again(terminal(2), ce_id="in/0/9/result"))


def swap_query_ids(history: History) -> None:
    """One event id has answers to two queries."""
    history.terminals.append(again(terminal(2), query_id="q3"))


def change_the_key(history: History) -> None:
    """A repeated answer has another key, so it may be in another partition."""
    history.terminals.append(again(terminal(2), key=b"other"))


def reject_what_was_read(history: History) -> None:
    """A record was read once and could not be read another time."""
    history.terminals.append(again(terminal(2), status="error", rejected=True, answer="null"))


def change_the_answer(history: History) -> None:
    """Two successes have different answers."""
    history.terminals.append(again(terminal(2), answer='"other"'))


def end_one_run_twice(history: History) -> None:
    """One run of a query has two ends."""
    history.terminals.append(replace(terminal(2), status="timeout", at=(0, QUERIES), content=b"other"))


def commit_too_early(history: History) -> None:
    """The position after query 3 was committed when its answer was not in the topic yet."""
    history.snapshots[3:5] = [Snapshot({0: 4}, {0: 3}, {0: 0})]


def commit_before_the_letter(history: History) -> None:
    """The position after the unreadable record was committed before its dead letter was written."""
    history.snapshots[-1] = Snapshot({0: QUERIES + 1}, {0: QUERIES}, {0: 0})


def commit_backwards(history: History) -> None:
    """A position went back."""
    history.snapshots.append(Snapshot({0: 2}, {0: QUERIES}, {0: 1}))


def run_too_many(history: History) -> None:
    """More queries ran than there are slots."""
    history.samples.append(Sample("a", 9, 9))


def take_in_too_many(history: History) -> None:
    """More records were taken in than is allowed."""
    history.samples.append(Sample("a", 1, 17))


def use_too_much_memory(history: History) -> None:
    """An instance was larger than is allowed."""
    history.samples.append(Sample("a", 1, 1, 501))


def end_late(history: History) -> None:
    """A query ended a second after its budget."""
    history.terminals[2] = replace(terminal(2), finished_at=1003.25, written_at=1003.25)


def write_late(history: History) -> None:
    """An answer was in time and written two seconds after its budget."""
    history.terminals[2] = replace(terminal(2), written_at=1004.25)


def linger(history: History) -> None:
    """An instance took longer to end than is allowed."""
    history.endings.append(Ending("a", 15.5, 0))


def end_badly(history: History) -> None:
    """An instance ended with another code."""
    history.endings.append(Ending("a", 1.0, 1, began_at=1004.0))


ANOMALIES: dict[str, list[Callable[[History], None]]] = {
    "lost": [lose_an_answer, lose_a_letter],
    "phantom": [answer_what_nobody_asked, bury_what_can_be_read],
    "contradictions": [
        answer_under_two_ids,
        change_the_key,
        reject_what_was_read,
        change_the_answer,
        end_one_run_twice,
    ],
    "commit-ahead": [commit_too_early, commit_before_the_letter],
    "commit-regressions": [commit_backwards],
    "over cap": [run_too_many, take_in_too_many, use_too_much_memory],
    "late": [end_late, write_late],
    "bad endings": [linger, end_badly],
}


def found(report: Report) -> dict[str, int]:
    """The kinds of violations that there are."""
    return {kind: count for kind, count in report.violations.items() if count}


@pytest.mark.parametrize(
    ("kind", "doctor"), [(kind, doctor) for kind, doctors in ANOMALIES.items() for doctor in doctors]
)
def test_each_anomaly_is_found(kind: str, doctor: Callable[[History], None]) -> None:
    """One thing is wrong, and that is what is found, once."""
    history = clean()
    doctor(history)
    report = judge(history, LIMITS)
    assert found(report) == {kind: 1}, report
    assert not report.silent
    assert kind in str(report)


def test_an_answer_under_a_strangers_id() -> None:
    """An event id that two queries share is wrong, and so is the query that then has two of them."""
    history = clean()
    swap_query_ids(history)
    assert set(judge(history, LIMITS).contradictions) == {"in/0/2/result", "q3"}


def test_harmless_duplicates_are_told_apart() -> None:
    """The same event again, a second run, and a second run that was not in time are counted, no more."""
    history = clean()
    history.terminals += [
        replace(terminal(1), at=(0, QUERIES)),
        again(terminal(2)),
        again(terminal(3), status="timeout", answer="null"),
    ]
    report = judge(history, LIMITS)
    assert report.silent, report
    assert report.harmless == {"identical": 1, "run again": 1, "run again, other status": 1}
    assert report.duplicates == 3


def test_a_stopped_instance_excuses_lateness() -> None:
    """A query that ran while an instance was stopped or starved may end late; one at another time may not."""
    history = clean()
    end_late(history)
    assert judge(replace(history, pauses=[Interval(1002.5, 1003.0)]), LIMITS).silent
    assert judge(replace(history, starved=[Interval(1002.5, 1003.0)]), LIMITS).silent
    assert not judge(replace(history, pauses=[Interval(1010.0, 1020.0)]), LIMITS).silent


def test_a_broker_that_is_away_excuses_late_writing_only() -> None:
    """While a broker is away an event may be written late, but its query must still end in time."""
    away = [Interval(1002.0, 1005.0)]
    history = replace(clean(), outages=away)
    write_late(history)
    assert judge(history, LIMITS).silent
    end_late(history)
    assert found(judge(history, LIMITS)) == {"late": 1}


def test_an_ending_while_a_broker_is_away() -> None:
    """While a broker is away an instance may end with 1: it could not commit. It may not crash."""
    history = replace(clean(), outages=[Interval(1002.0, 1005.0)])
    end_badly(history)
    assert judge(history, LIMITS).silent
    history.endings.append(Ending("a", 1.0, -11, began_at=1004.0))
    assert found(judge(history, LIMITS)) == {"bad endings": 1}


def test_a_new_leader_that_does_not_know_the_end_yet() -> None:
    """Topics only grow: what was seen in one once was there at every later commit."""
    history = clean()
    history.snapshots[5] = Snapshot({0: 5}, {0: 3}, {0: 0})
    history.snapshots[4] = Snapshot({0: 4}, {0: 5}, {0: 0})
    assert judge(history, LIMITS).silent


def test_without_limits() -> None:
    """Where no limits are given, nothing is said of times and sizes."""
    history = clean()
    for doctor in (end_late, run_too_many, linger):
        doctor(history)
    assert judge(history).silent
