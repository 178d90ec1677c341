"""The judge checks each field and each header of each event: changed, missing, or additional."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from fivestage.settings import TopicSettings

from .events import check_letter, check_run
from .judge import disordered, due_query, judge, repeated
from .run import quiet, simulate
from .scenario import draw
from .values import Asked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .answers import Written
    from .broker import Broker

SEEDS = range(6)
CASES = 50
"""The minimal number of events of each kind to check."""
EVENTS = ("stage_result", "result", "timeout")
KINDS = (*EVENTS, "dead_letter")
PEOPLE = ("error", "dlq.detail")
"""Texts for people: any non-empty one is right."""
ELSEWHERE = b"elsewhere"


class Case(NamedTuple):
    """An event, and the events published with it."""

    asked: Asked
    event: Written
    others: list[Written]
    partitions: int

    def complaints(self, **changes: Any) -> list[str]:
        """Return the judge's findings after a change."""
        event = self.event._replace(**changes)
        if event.kind == "dead_letter":
            return list(check_letter(self.asked, event, damaged=False))
        return list(check_run(self.asked, [event, *self.others], self.partitions, thorough=False))


@pytest.fixture(scope="module")
def cases() -> dict[str, list[Case]]:
    """Return the published events of some seeds, by kind."""
    found: dict[str, list[Case]] = {kind: [] for kind in KINDS}
    with quiet():
        for seed in SEEDS:
            broker = simulate(seed).broker
            ttl_ms = draw(seed).settings.admission.query_ttl_ms
            for case in _cases(broker, ttl_ms):
                found[case.event.kind.split("/", maxsplit=1)[0]].append(case)
    return {kind: all_of_it[:: max(1, len(all_of_it) // CASES)] for kind, all_of_it in found.items()}


def _cases(broker: Broker, ttl_ms: int) -> Iterator[Case]:
    for (partition, offset), about in broker.about.items():
        record = broker.queries[partition][offset]
        query = due_query(broker.asked[partition, offset], record, ttl_ms)
        for one in about:
            refused = broker.refused.get(((partition, offset), one.run), {})
            asked = Asked(record, query, broker.jobs.get(one.run), broker.ending(one.run), refused)
            others = [other for other in about if other.run == one.run and other.kind != one.kind]
            if (partition, offset) not in broker.suspect:
                yield Case(asked, one, others, broker.output_partitions)


@pytest.mark.parametrize("kind", KINDS)
def test_published_events_are_right(cases: dict[str, list[Case]], kind: str) -> None:
    """Events as published match the judge's own expectations."""
    assert cases[kind]
    assert not [complaint for case in cases[kind] for complaint in case.complaints()]


@pytest.mark.parametrize("kind", EVENTS)
def test_each_field_is_checked(cases: dict[str, list[Case]], kind: str) -> None:
    """A changed, missing or additional field of a value is found."""
    for case in cases[kind]:
        event = case.event.event
        free = PEOPLE if case.asked.job else (*PEOPLE, "queue_ms")  # measured before it is rejected
        assert case.complaints(event=event | {"more": 1})
        for name, said in _leaves(event):
            assert case.complaints(event=_with(event, name, _other(said))) or name[-1] in free, name
            assert case.complaints(event=_with(event, name, None)) or said is None, name


@pytest.mark.parametrize("kind", KINDS)
def test_each_header_is_checked(cases: dict[str, list[Case]], kind: str) -> None:
    """A changed, missing or additional header of a record is found."""
    for case in cases[kind]:
        headers = case.event.headers
        assert case.complaints(headers=[*headers, ("more", b"1")])
        assert case.complaints(headers=[*headers, headers[0]])
        for number, (name, _) in enumerate(headers):
            changed = [*headers[:number], (name, ELSEWHERE), *headers[number + 1 :]]
            leading = name == "ce_time" and kind == "result"  # all others are compared with it
            assert case.complaints(headers=changed) or name in PEOPLE, name
            assert case.complaints(headers=[*headers[:number], *headers[number + 1 :]]) or leading, name


@pytest.mark.parametrize("kind", KINDS)
def test_key_value_and_topic_are_checked(cases: dict[str, list[Case]], kind: str) -> None:
    """A changed key, a missing value, and another topic are found."""
    for case in cases[kind]:
        assert case.complaints(key=ELSEWHERE)
        assert case.complaints(topic="elsewhere")
        if kind == "dead_letter":
            assert case.complaints(value=ELSEWHERE)
        else:
            assert case.complaints(event=None)
            assert case.complaints(partition=case.event.partition + 1)


def _leaves(event: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Return the fields of a value, and of the objects in it."""
    for name, said in event.items():
        yield (name,), said
        if isinstance(said, dict) and name in {"metrics", "source"}:
            yield from (((name, inner), more) for inner, more in said.items())


def _with(event: dict[str, Any], name: tuple[str, ...], said: Any) -> dict[str, Any]:
    if len(name) == 1:
        return event | {name[0]: said}
    return event | {name[0]: event[name[0]] | {name[1]: said}}


def _other(said: Any) -> Any:
    """Return another value of the same type."""
    if isinstance(said, bool):
        return not said
    if isinstance(said, (int, float)):
        return said + 0.01
    if isinstance(said, (list, dict)):
        return type(said)() if said else type(said)([("more", 1)])
    return "2023-11-14T22:13:20.000001Z" if "Z" in str(said) else "elsewhere"


# The topics as a whole


@pytest.fixture
def broker() -> Iterator[Broker]:
    """Return the topics after a seed."""
    with quiet():
        yield simulate(0).broker


def test_lost_events_are_seen(broker: Broker) -> None:
    """A record without one of its events is not answered."""
    broker._answered.clear()
    for coordinates, about in broker.about.items():
        kept = list(about)
        for one in kept:
            about[:] = [other for other in kept if other is not one]
            assert not broker.is_answered(coordinates) or len({one.run for one in kept}) > 1, one.kind
        about[:] = kept
        assert broker.is_answered(coordinates)


def test_uncommitted_ends_are_found(broker: Broker) -> None:
    """The end of each partition must be committed."""
    broker.committed[0] -= 1
    assert [sentence.split(":")[0] for sentence in judge(broker, draw(0))] == ["uncommitted"]


def test_phantoms_are_seen(broker: Broker) -> None:
    """Events about a record that does not exist are found."""
    broker.about[0, 1000] = list(broker.about[0, 0])
    assert [sentence.split(":")[0] for sentence in judge(broker, draw(0))] == ["phantom"]


def test_disorder_is_seen(broker: Broker) -> None:
    """Results of one key in another order than their queries are found."""
    results = [one for _, about in sorted(broker.about.items()) for one in about if one.kind == "result"]
    first, second = [one for one in results if one.coordinates[0] == 0][:2]
    records = {
        one.coordinates: broker.queries[0][one.coordinates[1]]._replace(key=b"k") for one in (first, second)
    }
    topic = TopicSettings().results, 0
    assert not list(disordered({topic: [first, second]}, records))
    assert len(list(disordered({topic: [second, first]}, records))) == 1


def test_repetitions_are_seen(broker: Broker) -> None:
    """A repeated event, where nothing was lost on the way, is found."""
    before = len(list(repeated(broker)))
    coordinates = next(place for place, about in broker.about.items() if len(about) > 5)
    broker.about[coordinates] *= 2
    assert len(list(repeated(broker))) == before + 1
