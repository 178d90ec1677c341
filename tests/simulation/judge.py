"""What must hold when all is over: the topics, held against each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from fivestage.settings import TopicSettings

from .scenario import CORRUPT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fivestage.core.records import PlainRecord

    from .broker import Broker, Coordinates, Written
    from .scenario import Scenario

RESULTS = TopicSettings().results


def judge(broker: Broker, scenario: Scenario) -> Iterator[str]:
    """All that is wrong with the topics, one sentence each."""
    records = {(record.partition, record.offset): record for log in broker.queries for record in log}
    yield from lost(broker, records)
    yield from phantoms(broker, records)
    ttl = scenario.settings.admission.query_ttl_ms > 0
    for coordinates, record in records.items():
        damaged = coordinates in broker.suspect
        yield from wrong(coordinates, record, broker.about[coordinates], damaged=damaged, ttl=ttl)
    yield from uncommitted(broker)
    if scenario.settings.admission.ordering == "key":
        # What was damaged may have become a dead letter first, and be answered only when it is read again.
        sound = {at: record for at, record in records.items() if at not in broker.suspect}
        yield from disordered(broker.outputs, sound)
    elif scenario.is_gentle and all(b"?" in (record.value or b"") for record in records.values()):
        yield from repeated(broker)  # else one may overtake another that is put back, and both come again


def lost(broker: Broker, records: dict[Coordinates, PlainRecord]) -> Iterator[str]:
    """Records without all of their events."""
    for coordinates in records:
        if not broker.is_answered(coordinates):
            yield f"lost: {coordinates} has {sorted(one.kind for one in broker.about[coordinates])}"


def phantoms(broker: Broker, records: dict[Coordinates, PlainRecord]) -> Iterator[str]:
    """Events about records that are not there."""
    for coordinates in broker.about:
        if coordinates not in records and broker.about[coordinates]:
            yield f"phantom: {coordinates}"


def wrong(
    coordinates: Coordinates, record: PlainRecord, about: list[Written], *, damaged: bool, ttl: bool
) -> Iterator[str]:
    """An answer of the wrong kind."""
    kinds = {written.kind for written in about}
    may_expire = ttl or b"budget_ms" in (record.value or b"")
    is_query = record.value is not None and b"user_input" in record.value
    if is_query and "dead_letter" in kinds and not damaged:
        yield f"dead letter for a good record: {coordinates}"
    if not is_query and "dead_letter" not in kinds:
        yield f"no dead letter for a bad record: {coordinates}"
    if any(written.status == "expired" for written in about) and not may_expire:
        yield f"expired without a reason: {coordinates}"
    if record.value == CORRUPT and "result" in kinds:
        yield f"a result for a record nobody can read: {coordinates}"


def uncommitted(broker: Broker) -> Iterator[str]:
    """Partitions whose end is not committed."""
    for number, log in enumerate(broker.queries):
        if broker.committed.get(number, 0) != len(log):
            yield f"uncommitted: partition {number} stands at {broker.committed.get(number)} of {len(log)}"


def disordered(
    outputs: dict[tuple[str, int], list[Written]], records: dict[Coordinates, PlainRecord]
) -> Iterator[str]:
    """Results of equal keys whose first appearances are not in the order of their queries."""
    highest: dict[tuple[int, bytes | None], int] = defaultdict(lambda: -1)
    for (topic, _), written in outputs.items():
        seen = set()
        for one in written if topic == RESULTS else ():
            record = records.get(one.coordinates)
            if record is None or record.key is None or one.coordinates in seen:
                continue
            seen.add(one.coordinates)
            line = record.partition, record.key
            if record.offset < highest[line]:
                yield f"out of order: {one.coordinates} after offset {highest[line]}"
            highest[line] = max(highest[line], record.offset)


def repeated(broker: Broker) -> Iterator[str]:
    """Events that are there twice although nothing was lost on the way."""
    for coordinates, about in broker.about.items():
        twice = [kind for kind, count in Counter(one.kind for one in about).items() if count > 1]
        if twice:
            yield f"answered twice: {coordinates} {twice}"
