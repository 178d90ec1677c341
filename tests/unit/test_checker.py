"""Tests of the checker: it finds each anomaly planted in a history, and nothing in a clean one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from support.checker import UNTIMED, History, InstanceExit, Interval, Limits, Sample, Snapshot, Tenure, judge

from .histories import COUNT, QUERIES, REJECTED, UNREADABLE, Planted, clean, rerun

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.checker import Report

LIMITS = Limits(in_flight=8, unfinished=16, rss_mb=500, late_s=0.5, written_late_s=1.0, shutdown_s=15)


def test_clean() -> None:
    """Clean and empty histories have no violations."""
    report = judge(clean().made(), LIMITS._replace(repeated=0))
    assert report.silent, report
    assert (report.duplicates, report.statuses["success"]) == (0, QUERIES + 1)
    assert report.lateness_s == pytest.approx([-0.12] * (QUERIES + 1) + [0.0], abs=1e-5)
    assert judge(History(asked=set())).silent


def lose_a_result(planted: Planted) -> None:
    """Drop the result of query 3."""
    planted.events.remove(planted.event(3))
    planted.history.commits.clear()


def lose_a_letter(planted: Planted) -> None:
    """Drop the dead letter of the unreadable record, and leave the count of rejects at zero."""
    del planted.letters[0]
    planted.history.commits.clear()
    planted.history.rejects = None


def answer_a_record_that_does_not_exist(planted: Planted) -> None:
    """Add an event about a record behind the last one."""
    event = planted.event(2).again(source={"topic": "in", "partition": 0, "offset": COUNT})
    event.headers["ce_id"] = f"in/0/{COUNT}/result"
    planted.events.append(event)


def reject_a_readable_record(planted: Planted) -> None:
    """Add a dead letter of a readable record."""
    record = planted.queries[2]
    headers = tuple(
        (name, b"2" if name == "dlq.offset" else text) for name, text in planted.letters[1].headers
    )
    stamp = ("dlq.timestamp", str(record.timestamp_ms).encode())
    kept = tuple(stamp if header[0] == "dlq.timestamp" else header for header in headers)[:-1]
    letter = planted.letters[1]._replace(
        key=record.key, value=record.value, headers=(*kept, record.headers[0])
    )
    planted.letters.append(letter)


def answer_under_two_ids(planted: Planted) -> None:
    """Give one query results of two records."""
    for event in planted.of(3):
        event.key = b"q2"
        event.value["query_id"] = event.headers["ce_subject"] = event.headers["ce_correlationid"] = "q2"
        for stage in event.value.get("stages", ()):
            stage["query_id"] = "q2"
    planted.queries[3:4] = []
    planted.history.asked.remove("q3")
    planted.history.rejects = None


def reject_after_an_answer(planted: Planted) -> None:
    """Read a record once, and reject it at the second reading."""
    other = planted.event(REJECTED)
    result = {
        name: other.value[name] for name in ("status", "answer", "error", "error_type", "metrics", "node")
    }
    event = planted.event(2).again(**result, stages=[], started_at=None, validated=None)
    event.headers["status"] = "error"
    planted.events.append(event)


def change_the_answer(planted: Planted) -> None:
    """Give a query two successes with different answers."""
    rerun(planted, 2, answer="other")
    for event in planted.events[-6:]:
        for stage in [event.value, *event.value.get("stages", ())]:
            if stage.get("stage_type") == "processing":
                stage["data"] = {"answer": "other"}


def end_one_run_twice(planted: Planted) -> None:
    """End one run of a query twice."""
    planted.events.append(planted.event(2).again(confidence=0.5))


def commit_too_early(planted: Planted) -> None:
    """Commit a position a millisecond before the last event of its records was appended."""
    event = planted.event(3, "stage_result/4")
    event.timestamp_ms = planted.history.commits[3].at_ms + 1


def commit_before_the_letter(planted: Planted) -> None:
    """Commit past the unreadable record before its dead letter was appended."""
    late_ms = planted.history.commits[UNREADABLE].at_ms + 1
    planted.letters[0] = planted.letters[0]._replace(timestamp_ms=late_ms)


def commit_beyond_the_end(planted: Planted) -> None:
    """Commit a position beyond the last record."""
    last = planted.history.commits[-1]
    planted.history.commits.append(last._replace(position=COUNT + 1))


def commit_backwards(planted: Planted) -> None:
    """Commit a lower position."""
    planted.history.commits.append(planted.history.commits[2])


def run_too_many(planted: Planted) -> None:
    """Run more queries than there are slots."""
    planted.history.samples.append(Sample("a", 9, 9))


def take_in_too_many(planted: Planted) -> None:
    """Take in more records than allowed."""
    planted.history.samples.append(Sample("a", 1, 17))


def use_too_much_memory(planted: Planted) -> None:
    """Use more memory than allowed."""
    planted.history.samples.append(Sample("a", 1, 1, 501))


def end_late(planted: Planted, late_s: int = 1) -> None:
    """End a query a second, or more, after its budget."""
    event = planted.event(2)
    event.value["finished_at"] = event.headers["ce_time"] = f"1970-01-01T00:16:{42 + late_s}.250000Z"
    event.value["metrics"] |= {"total_duration_ms": 250.0 + 1000 * late_s, "within_budget": False}
    event.timestamp_ms = 1_002_250 + 1000 * late_s
    planted.history.commits.clear()


def write_late(planted: Planted) -> None:
    """Write an answer that was in time two seconds after its budget."""
    planted.event(2).timestamp_ms = 1_004_250
    planted.history.commits.clear()


def linger(planted: Planted) -> None:
    """Let an instance take longer to end than allowed."""
    planted.history.endings.append(InstanceExit("a", 15.5, 0))


def end_badly(planted: Planted) -> None:
    """End an instance with another exit code."""
    planted.history.endings.append(InstanceExit("a", 1.0, 1, began_at=1004.0))


ANOMALIES: dict[str, list[Callable[[Planted], None]]] = {
    "lost": [lose_a_result, lose_a_letter],
    "phantom": [answer_a_record_that_does_not_exist, reject_a_readable_record],
    "contradictions": [answer_under_two_ids, reject_after_an_answer, change_the_answer, end_one_run_twice],
    "commit-ahead": [commit_too_early, commit_before_the_letter, commit_beyond_the_end],
    "commit-regressions": [commit_backwards],
    "over cap": [run_too_many, take_in_too_many, use_too_much_memory],
    "late": [end_late, write_late],
    "bad endings": [linger, end_badly],
}


def found(report: Report) -> dict[str, int]:
    """Return the kinds of violations found."""
    return {kind: count for kind, count in report.violations.items() if count}


@pytest.mark.parametrize(
    ("kind", "doctor"), [(kind, doctor) for kind, doctors in ANOMALIES.items() for doctor in doctors]
)
def test_each_anomaly_is_found(kind: str, doctor: Callable[[Planted], None]) -> None:
    """Each planted anomaly is found, exactly once and nothing else."""
    planted = clean()
    doctor(planted)
    report = judge(planted.made(), LIMITS)
    assert found(report) == {kind: 1}, report
    assert not report.silent
    assert kind in str(report)


def test_harmless_duplicates_are_counted() -> None:
    """A duplicate event, a second run, and a second run that timed out are no violations."""
    planted = clean()
    planted.events.append(planted.event(1).again())
    rerun(planted, 2)
    rerun(planted, 3)
    rerun(planted, 0)
    planted.events = [
        e for e in planted.events if (e.offset, e.kind, e.timestamp_ms) != (0, "result", 1_060_200)
    ]
    report = judge(planted.made(), LIMITS)
    assert report.silent, report
    assert report.harmless == {"identical": 1, "run again": 2}
    assert report.duplicates == 3
    assert report.surplus == {"results": 3, "stage_results": 15}
    assert found(judge(planted.made(), LIMITS._replace(repeated=17))) == {"repeated": 1}


def test_a_stopped_instance_excuses_lateness() -> None:
    """A query that ran while an instance was stopped or starved may end late; others may not."""
    planted = clean()
    end_late(planted)
    history = planted.made()
    assert judge(replace(history, pauses=[Interval(1002.5, 1003.0)]), LIMITS).silent
    assert judge(replace(history, starved=[Interval(1002.5, 1003.0)]), LIMITS).silent
    assert not judge(replace(history, pauses=[Interval(1010.0, 1020.0)]), LIMITS).silent


def test_only_the_instance_that_ran_it_excuses_lateness() -> None:
    """A pause of another instance, or before the query started, excuses no lateness."""
    planted = clean()
    end_late(planted)
    tenures = [Tenure("a", 0, 990.0, 1100.0), Tenure("b", 1, 990.0, 1100.0)]
    history = replace(planted.made(), tenures=tenures)
    assert judge(replace(history, pauses=[Interval(1002.5, 1003.0, "a")]), LIMITS).silent
    assert judge(replace(history, starved=[Interval(1002.5, 1003.0, "a")]), LIMITS).silent
    assert found(judge(replace(history, pauses=[Interval(1002.5, 1003.0, "b")]), LIMITS)) == {"late": 1}
    assert found(judge(replace(history, starved=[Interval(1002.5, 1003.0, "b")]), LIMITS)) == {"late": 1}
    both = [*tenures, Tenure("c", 0, 1001.0, 1100.0)]  # "a" lost it while it was stopped, and "c" has it
    history = replace(history, tenures=both)
    paused = [Interval(1000.5, 1003.0, "a", 0.5)]
    assert found(judge(replace(history, pauses=paused), LIMITS)) == {"late": 1}
    assert judge(replace(history, pauses=[Interval(1000.5, 1003.0, "a", 1.5)]), LIMITS).silent


def test_a_broker_that_is_away_excuses_late_writing_only() -> None:
    """During a broker outage an event may be written late, but its query must end in time."""
    planted = clean()
    planted.history.outages = [Interval(1002.0, 1005.0)]
    write_late(planted)
    assert judge(planted.made(), LIMITS).silent
    end_late(planted)
    assert found(judge(planted.made(), LIMITS)) == {"late": 1}


def test_an_ending_while_a_broker_is_away() -> None:
    """During a broker outage an instance may exit with 1, as it could not commit, but not crash."""
    planted = clean()
    planted.history.outages = [Interval(1002.0, 1005.0)]
    end_badly(planted)
    assert judge(planted.made(), LIMITS).silent
    planted.history.endings.append(InstanceExit("a", 1.0, -11, began_at=1004.0))
    assert found(judge(planted.made(), LIMITS)) == {"bad endings": 1}


def test_snapshots_instead_of_commits() -> None:
    """Without commits of the broker, snapshots of positions and topic ends find the same anomalies."""
    history = clean().made()
    letters = [0] * UNREADABLE + [0, 1, 1, 1, 2, 2]
    ends = [n - (n > UNREADABLE) for n in range(COUNT + 1)]
    looks = [Snapshot({0: n}, {0: ends[n]}, {0: letters[n]}) for n in range(COUNT + 1)]
    history = replace(history, commits=[], snapshots=looks)
    assert judge(history, LIMITS).silent
    early = replace(looks[4], results_end={0: 3})
    assert found(judge(replace(history, snapshots=[*looks[:3], early]), LIMITS)) == {"commit-ahead": 1}
    early = replace(looks[UNREADABLE + 1], letters_end={0: 0})
    assert found(judge(replace(history, snapshots=[*looks[: UNREADABLE + 1], early]), LIMITS)) == {
        "commit-ahead": 1
    }
    assert found(judge(replace(history, snapshots=[*looks, looks[2]]), LIMITS)) == {"commit-regressions": 1}


def test_a_new_leader_that_reports_an_earlier_end() -> None:
    """Topics only grow: the end seen at one look holds at every later look."""
    history = replace(clean().made(), commits=[])
    looks = [Snapshot({0: 4}, {0: 5}, {0: 0}), Snapshot({0: 5}, {0: 3}, {0: 0})]
    assert judge(replace(history, snapshots=looks), LIMITS).silent


def test_without_limits() -> None:
    """Without limits sizes are not checked, and times only beyond what a busy machine explains."""
    planted = clean()
    for doctor in (end_late, run_too_many, linger):
        doctor(planted)
    assert judge(planted.made()).silent
    for late_s, violations in {4: {}, 6: {"late": 1}}.items():
        planted = clean()
        end_late(planted, late_s)
        assert found(judge(planted.made())) == violations
        assert judge(planted.made(), UNTIMED).silent
    assert found(judge(planted.made(), Limits(written_late_s=5.0))) == {"late": 2}  # ended and written
