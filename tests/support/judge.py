"""Compares the observations of a run with the promises. Pure, so that it can be tested itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .asked import Asked
from .duplicates import judge_duplicates
from .events import Event, flaws, flaws_of_value, read_event
from .history import DEAD_LETTERS, OUTPUTS, RESULTS
from .judge_commits import judge_commits, judge_snapshots
from .judge_times import judge_endings, judge_lateness, judge_samples
from .letters import Letter, flaws_of_letter, read_letter
from .report import Limits, Report
from .runs import READINGS_S, companions, inconsistencies, is_companion
from .terminal import Terminal

if TYPE_CHECKING:
    from .history import History
    from .reading import Place, Record

NEVER_MS = float("inf")


@dataclass
class Seen:
    """The parsed records of a run."""

    records: dict[Place, Record]
    asked: dict[Place, Asked]
    letters: list[Letter] = field(default_factory=list)
    events: dict[tuple[Place, str], list[Event]] = field(default_factory=lambda: defaultdict(list))
    """By record and kind."""
    terminals: list[Terminal] = field(default_factory=list)
    """The readable results."""
    answered_ms: dict[Place, float] = field(default_factory=dict)
    """When the last event of a record's first complete run was written."""


def judge(history: History, limits: Limits | None = None) -> Report:
    """Compare queries, answers, commits and measurements."""
    limits, report = limits or Limits(), Report()
    records = {record.at: record for record in history.queries}
    seen = Seen(records, {place: Asked.of(record) for place, record in records.items()})
    _read_events(report, history, seen)
    _read_letters(report, history, seen)
    report.statuses = Counter(terminal.status for terminal in seen.terminals)
    _judge_presence(report, history, seen)
    judge_duplicates(report, seen.terminals, _asked_again(seen))
    _judge_runs(report, seen)
    _judge_repetition(report, limits)
    judge_commits(report, history, seen.answered_ms)
    judge_snapshots(report, history.snapshots, seen.terminals, seen.letters)
    judge_lateness(report, history, seen.terminals, limits)
    judge_samples(report, history.samples, limits)
    judge_endings(report, history, limits)
    return report


def _read_events(report: Report, history: History, seen: Seen) -> None:
    for output in OUTPUTS:
        for record in history.outputs[output] if output != DEAD_LETTERS else ():
            event = read_event(output, record, history.topic)
            if isinstance(event, str):
                report.malformed.append(event)
                continue
            if event.source[1] >= history.ends.get(event.source[0], 0):
                report.phantom.append(f"{event.name}: there is no such record")
                continue
            seen.events[event.source, event.kind].append(event)
            unusable = list(flaws_of_value(event, history.topic))
            found = unusable + list(flaws(event, seen.asked.get(event.source), history.topic, history.lane))
            if output == RESULTS and not unusable:
                found += inconsistencies(event)
                seen.terminals.append(Terminal.of(event))
            elif output == RESULTS:
                seen.answered_ms[event.source] = 0  # its time of writing cannot be determined
            if found:
                report.malformed.append(f"{event.name}: {'; '.join(found)}")


def _read_letters(report: Report, history: History, seen: Seen) -> None:
    for record in history.outputs[DEAD_LETTERS]:
        letter = read_letter(record, history.topic)
        if isinstance(letter, str):
            report.malformed.append(letter)
        elif letter is not None:
            seen.letters.append(letter)
            found = list(flaws_of_letter(letter, seen.records.get(letter.source)))
            if found:
                where = f"dead letter of {name_of(letter.source)}"
                report.malformed.append(f"{where}: {'; '.join(found)}")


def _judge_presence(report: Report, history: History, seen: Seen) -> None:
    """Check that each query has a result, each record a result or a dead letter, and nothing else."""
    places = {place for place, kind in seen.events if kind == "result"}
    answered = {_answered_id(place, seen) for place in places}
    lost = history.asked - answered
    report.lost += sorted(lost)
    report.phantom += sorted(answered - history.asked)
    letters = {letter.source for letter in seen.letters}
    ended = places | letters
    for place, asked in seen.asked.items():
        if place not in ended and asked.query_id not in lost:
            report.lost.append(f"anything about {name_of(place)}")
    if history.rejects is not None:
        report.lost += [f"dead letter of {name_of(place)}" for place in sorted(history.rejects - letters)]
        report.phantom += [f"dead letter of {name_of(place)}" for place in sorted(letters - history.rejects)]


def _answered_id(place: Place, seen: Seen) -> str:
    """Return the id of a result's query: its record's, where that has one."""
    asked, [event, *_] = seen.asked.get(place), seen.events[place, "result"]
    return (asked and asked.query_id) or str(event.value.get("query_id"))


def _asked_again(seen: Seen) -> set[str]:
    """Return queries repeated in their topic: brokers that are all killed may accept a batch twice."""
    times = Counter(asked.query_id for asked in seen.asked.values() if asked.query_id is not None)
    return {query_id for query_id, count in times.items() if count > 1}


def _judge_runs(report: Report, seen: Seen) -> None:
    """Check that an answer has all events of one run; further events are of other runs."""
    letters: dict[Place, list[float]] = defaultdict(list)
    for letter in seen.letters:
        letters[letter.source].append(letter.record.timestamp_ms)
    wanted: set[tuple[str, Place]] = set()
    """Events that belong to some result."""
    missing: dict[Place, str] = {}
    for terminal in seen.terminals:
        place = terminal.source
        readings = [_companions(terminal, seen, reading_s) for reading_s in READINGS_S]
        written_ms, lacking, found = min(readings, key=lambda reading: len(reading[1]))
        wanted |= found
        if terminal.rejected:
            written_ms.append(min(letters[place], default=NEVER_MS))
            lacking += [] if letters[place] else ["dead letter"]
        if lacking:
            missing[place] = f"{terminal.event.name}: no {', '.join(lacking)} of this run"
        seen.answered_ms[place] = min(seen.answered_ms.get(place, NEVER_MS), max(written_ms))
    for place, at_ms in letters.items():
        if at_ms and (place, "result") not in seen.events:
            seen.answered_ms[place] = min(at_ms)
    report.incomplete += [why for place, why in missing.items() if seen.answered_ms[place] == NEVER_MS]
    report.surplus = _surplus(seen, wanted)


def _companions(
    terminal: Terminal, seen: Seen, reading_s: float
) -> tuple[list[float], list[str], set[tuple[str, Place]]]:
    """Return when a result was complete, its missing kinds, and the places of its events."""
    result = terminal.event
    written_ms: list[float] = [result.record.timestamp_ms]
    lacking: list[str] = []
    found: set[tuple[str, Place]] = set()
    for kind, fields in companions(result, reading_s).items():
        there = seen.events.get((terminal.source, kind), [])
        same = [event for event in there if is_companion(event, result, fields)]
        found.update((event.output, event.record.at) for event in same)
        written_ms.append(min((event.record.timestamp_ms for event in same), default=NEVER_MS))
        lacking += [] if same else [kind]
    return written_ms, lacking, found


def _surplus(seen: Seen, wanted: set[tuple[str, Place]]) -> Counter[str]:
    """Check events with the id of another, and events that belong to no result."""
    found: Counter[str] = Counter()
    for (_, kind), events in seen.events.items():
        first = kind == "result" or any((event.output, event.record.at) in wanted for event in events)
        found[events[0].output] += len(events) - first
    found[DEAD_LETTERS] = len(seen.letters) - len({letter.source for letter in seen.letters})
    return +found


def _judge_repetition(report: Report, limits: Limits) -> None:
    found = sum(report.surplus.values())
    if limits.repeated is not None and found > limits.repeated:
        report.repeated.append(f"{found} events of queries that were run again: {dict(report.surplus)}")


def name_of(place: Place) -> str:
    """Return a place as text."""
    return f"{place[0]}/{place[1]}"
