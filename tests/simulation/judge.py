"""The final checks of the topics against each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from math import inf
from typing import TYPE_CHECKING

from fivestage.settings import TopicSettings

from .events import CLOCK_S, check_letter, check_run
from .questions import TOTAL_MS, WALL_AT_START
from .values import Asked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fivestage.core.records import PlainRecord

    from .answers import Coordinates, Written
    from .broker import Broker
    from .questions import Query
    from .scenario import Scenario

RESULTS = TopicSettings().results
THOROUGH = 10
"""One seed in this many has its values parsed by their models too, which doubles the cost."""


def judge(broker: Broker, scenario: Scenario) -> Iterator[str]:
    """Return all faults of the topics, one sentence each."""
    records = {(record.partition, record.offset): record for log in broker.queries for record in log}
    yield from lost(broker, records)
    yield from phantoms(broker, records)
    ttl_ms = scenario.settings.admission.query_ttl_ms
    for coordinates, record in records.items():
        for sentence in wrong(broker, coordinates, record, ttl_ms, scenario.seed):
            yield f"{coordinates}: {sentence}"
    yield from uncommitted(broker)
    if scenario.settings.admission.ordering == "key":
        # A damaged record may first become a dead letter, and be answered when it is fetched again.
        sound = {at: record for at, record in records.items() if at not in broker.suspect}
        yield from disordered(broker.outputs, sound)
    elif scenario.is_gentle and all(query.is_plain for query in broker.asked.values()):
        yield from repeated(
            broker
        )  # otherwise one may overtake another that is handed back, and both come again


def lost(broker: Broker, records: dict[Coordinates, PlainRecord]) -> Iterator[str]:
    """Return records without all of their events."""
    for coordinates in records:
        if not broker.is_answered(coordinates):
            yield f"lost: {coordinates} has {sorted(one.kind for one in broker.about[coordinates])}"


def phantoms(broker: Broker, records: dict[Coordinates, PlainRecord]) -> Iterator[str]:
    """Return events about records that do not exist."""
    for coordinates in broker.about:
        if coordinates not in records and broker.about[coordinates]:
            yield f"phantom: {coordinates}"


def wrong(
    broker: Broker, coordinates: Coordinates, record: PlainRecord, ttl_ms: int, seed: int
) -> Iterator[str]:
    """Return the faults of one record's events."""
    query, damaged = due_query(broker.asked[coordinates], record, ttl_ms), coordinates in broker.suspect
    runs: dict[bytes, list[Written]] = defaultdict(list)
    for one in broker.about[coordinates]:
        if one.kind == "dead_letter":
            yield from check_letter(Asked(record, query, None, None), one, damaged=damaged)
            if not query.reason and not damaged:
                yield "dead letter for a good record"
        else:
            runs[one.run].append(one)
    if query.reason and not any(one.kind == "dead_letter" for one in broker.about[coordinates]):
        yield "no dead letter for a bad record"
    for run, events in runs.items():
        if query.query_id is None:
            yield "a result for a record without a readable id"
            continue
        refused = broker.refused.get((coordinates, run), {})
        asked = Asked(record, query, broker.jobs.get(run), broker.ending(run), refused)
        yield from check_run(asked, events, broker.output_partitions, thorough=seed % THOROUGH == 0)
        yield from wrong_time(asked, events)


def due_query(query: Query, record: PlainRecord, ttl_ms: int) -> Query:
    """Return the query as it must be answered with a ttl of *ttl_ms* (0 = none)."""
    if not ttl_ms or query.reason:
        return query
    due_s = (record.timestamp + ttl_ms) / 1000 - WALL_AT_START
    return query._replace(due_s=min(due_s, inf if query.due_s is None else query.due_s))


def wrong_time(asked: Asked, events: list[Written]) -> Iterator[str]:
    """Return faults of a query rejected or started against its deadline, or given too much time."""
    query, job = asked.query, asked.job
    expired = any(one.status == "expired" for one in events)
    if expired and query.due_s is None and query.budget_ms == TOTAL_MS:
        yield "expired without a reason"
    if job is None:
        return
    if job.query.query_id != query.query_id or job.query.user_input != query.asks:
        yield f"{job.query.query_id} was run instead of {query.query_id}"
    if job.allow_partial is not query.allow_partial:
        yield f"it ran with allow_partial {job.allow_partial}, not {query.allow_partial}"
    end_s = min(job.started_at + query.budget_ms / 1000, inf if query.due_s is None else query.due_s)
    if abs(job.ends_at - end_s) > CLOCK_S:
        yield f"its deadline was {job.ends_at:.6f} s, not {end_s:.6f}"


def counted(broker: Broker) -> Counter[str]:
    """Count the occurrences of each row of the contract's table."""
    rows: Counter[str] = Counter()
    for about in broker.about.values():
        for one in about:
            if one.kind == "dead_letter":
                rows["unreadable"] += 1
            elif one.kind == "result" and isinstance(one.event, dict):
                rows[row_of(broker, one)] += 1
            elif one.kind == "timeout" and one.event and one.event.get("reason") == "would_expire":
                rows["would expire"] += 1
    return rows


def row_of(broker: Broker, result: Written) -> str:
    """Return the row of a result."""
    if result.event.get("error_type") == "result_too_large":
        return "result too large"
    if result.event.get("error_type") == "publish_refused":
        return "publish refused"
    ending = broker.ending(result.run)
    if ending is None:
        return "expired before start" if result.status == "expired" else "invalid query"
    left_out = any(one["error_type"] == "result_too_large" for one in result.event["stages"])
    return "data left out" if left_out else ending.row


def uncommitted(broker: Broker) -> Iterator[str]:
    """Return partitions whose end is not committed."""
    for number, log in enumerate(broker.queries):
        if broker.committed.get(number, 0) != len(log):
            yield f"uncommitted: partition {number} stands at {broker.committed.get(number)} of {len(log)}"


def disordered(
    outputs: dict[tuple[str, int], list[Written]], records: dict[Coordinates, PlainRecord]
) -> Iterator[str]:
    """Return results of equal keys whose first occurrences are not in the order of their queries.

    A query that expires while it waits is published at its deadline, out of order.
    """
    highest: dict[tuple[int, bytes | None], int] = defaultdict(lambda: -1)
    for (topic, _), written in outputs.items():
        seen = set()
        for one in written if topic == RESULTS else ():
            record = records.get(one.coordinates)
            if record is None or record.key is None or one.coordinates in seen:
                continue
            seen.add(one.coordinates)  # later ones are other runs
            if one.status == "expired":
                continue
            line = record.partition, record.key
            if record.offset < highest[line]:
                yield f"out of order: {one.coordinates} after offset {highest[line]}"
            highest[line] = max(highest[line], record.offset)


def repeated(broker: Broker) -> Iterator[str]:
    """Return repeated events, where nothing was lost on the way."""
    for coordinates, about in broker.about.items():
        twice = [kind for kind, count in Counter(one.kind for one in about).items() if count > 1]
        if twice:
            yield f"answered twice: {coordinates} {twice}"
