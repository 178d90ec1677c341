"""The records of the input topic, and the expected answer to each."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from fivestage_schemas import headers as h

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

WALL_AT_START = 1_700_000_000.0
"""Seconds since the epoch at virtual time 0."""
TOTAL_MS = 250.0
"""The budget of a query without its own."""
CORRUPT = b"corrupt"
"""The value of an unreadable record."""
LANES: tuple[dict[str, float], ...] = ({}, {}, {"prod": 2.0, "canary": 1.0})
"""Settings of the service: its accepted lanes with their shares; empty = all."""
LANE = "prod"
"""Of queries without a lane."""


class Query(NamedTuple):
    """A record of the input topic before it has an offset, and its parsed content."""

    at_s: float
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    query_id: str | None = None
    """None if unreadable."""
    asks: str = ""
    lane: str = LANE
    reason: str = ""
    """The reason of its dead letter; empty for a query."""
    budget_ms: float = TOTAL_MS
    due_s: float | None = None
    """Virtual seconds until its deadline."""
    causation: str | None = None
    correlation: str | None = None
    traceparent: str | None = None
    """If well-formed."""
    allow_partial: bool = False

    @property
    def is_plain(self) -> bool:
        """Return whether it is readable, and has the whole budget."""
        return not self.reason and self.budget_ms == TOTAL_MS and self.due_s is None


def answer_to(query_id: str, asks: str, padding: int = 0) -> dict[str, str]:
    """Return the executor double's answer, which differs for each query."""
    return {"to": query_id, "asked": asks} | ({"padding": "x" * padding} if padding else {})


def offers(query_id: str) -> bool:
    """Return whether the executor double's nodes offer an answer to a query before they time out."""
    return query_id[-1:] in set("13579")


def data_of(query_id: str, sequence: int) -> Any:
    """Return a stage's data, other than processing's; it differs for each query and stage."""
    return f"{query_id} {sequence}"


def draw_queries(
    random: Random, partitions: int, chaos_s: float, lanes: Mapping[str, float], *, gentle: bool
) -> list[Query]:
    """Draw a burst, or a stream, or both; a few records are unreadable or no queries.

    In some seeds there are many, so that latencies are learned and queries with less time are rejected.
    """
    poison, hurried = random.choice((0.0, 0.0, 0.1, 0.3)), random.choice((0.0, 0.1, 0.2))
    burst, hurries = random.random(), HURRIED
    if plain := gentle and random.random() < 0.7:  # nothing may be answered twice then
        poison = hurried = 0.0
    queries = []
    if many := not plain and random.random() < 0.01:
        burst, hurried, hurries = 1.0, 0.4, (_budget,)
    for number in range(random.randint(100, 160) if many else random.randint(5, 40)):
        at_s = 0.0 if random.random() < burst else random.random() * chaos_s
        key = random.choice((None, b"a", b"b", b"c"))
        query = _ordinary(random, number, Query(at_s, random.randrange(partitions), key, None), lanes)
        draw = random.random()
        if draw < poison:
            query = random.choice(BAD)(query)
        elif lanes and not plain and draw < poison + 0.02:
            query = _unknown_lane(query)
        elif draw < poison + hurried:
            query = random.choice(hurries)(random, query)
        queries.append(query)
    return sorted(queries, key=lambda query: query.at_s)


def _ordinary(random: Random, number: int, query: Query, lanes: Mapping[str, float]) -> Query:
    """Draw a query in one of the three forms, with any headers."""
    query_id, asks = f"q{number}", f"what is {number} + {number}?"
    fields: dict[str, Any] = {"query_id": query_id, "user_input": asks}
    query = query._replace(query_id=query_id, asks=asks, allow_partial=number % 4 == 1)
    if number % 4 < 2:  # the others do not say
        fields["allow_partial"] = query.allow_partial
    headers: dict[str, str] = {}
    if random.random() < 0.3:
        query = query._replace(lane=random.choice(tuple(lanes) or ("prod", "canary", "night")))
        if random.random() < 0.5:
            fields["lane"] = query.lane
        else:
            headers[h.LANE] = query.lane
    if random.random() < 0.3:
        query = _traced(random, query, headers)
    form = random.random()
    if form < 0.2:
        del fields["query_id"]
        headers |= {h.CE_SPECVERSION: "1.0", h.CE_ID: query_id, h.CONTENT_TYPE: "application/json"}
        query = _related(random, query, headers)
    elif form < 0.3:
        headers[h.CONTENT_TYPE] = "application/cloudevents+json"
        attributes = {"specversion": "1.0", "id": f"e{number}", "correlationid": f"c{number}"}
        query = query._replace(causation=f"e{number}", correlation=f"c{number}")
        fields = {**attributes, "data": fields}
    if random.random() < 0.1:
        headers["x-session"] = "of no concern to others"
    return _with(query, fields, headers)


def _with(query: Query, fields: Mapping[str, Any], headers: Mapping[str, str]) -> Query:
    encoded = tuple((name, text.encode()) for name, text in headers.items())
    return query._replace(value=orjson.dumps(fields), headers=encoded)


def _traced(random: Random, query: Query, headers: dict[str, str]) -> Query:
    traceparent = f"00-{random.getrandbits(128):032x}-{random.getrandbits(64):016x}-0{random.randrange(2)}"
    if random.random() < 0.2:
        traceparent = "00-no trace"
    else:
        query = query._replace(traceparent=traceparent)
    headers[h.TRACEPARENT] = traceparent
    if random.random() < 0.3:
        headers[h.TRACESTATE] = "vendor=1"
    return query


def _related(random: Random, query: Query, headers: dict[str, str]) -> Query:
    query = query._replace(causation=headers[h.CE_ID])
    if random.random() < 0.5:
        headers[h.CE_CORRELATION_ID] = f"about {query.query_id}"
        query = query._replace(correlation=headers[h.CE_CORRELATION_ID])
    return query


# Queries with less time


def _budget(random: Random, query: Query) -> Query:
    budget_ms = random.choice((20, 60, 400))
    return _more(query, budget_ms=budget_ms)._replace(budget_ms=float(min(budget_ms, TOTAL_MS)))


def _deadline(random: Random, query: Query) -> Query:
    due_s = query.at_s + random.choice((-0.1, 0.1, 0.3, 2.0))
    return _more(query, deadline=_time(due_s))._replace(due_s=due_s)


def _expiry_time(random: Random, query: Query) -> Query:
    due_s = query.at_s + random.choice((-0.1, 0.1, 0.3, 2.0))
    headers = (*query.headers, (h.CE_EXPIRY_TIME, _time(due_s).encode()))
    return query._replace(headers=headers, due_s=due_s)


def _more(query: Query, **more: Any) -> Query:
    fields = orjson.loads(query.value or b"")
    fields.get("data", fields).update(more)
    return query._replace(value=orjson.dumps(fields))


def _time(virtual_s: float) -> str:
    return datetime.fromtimestamp(WALL_AT_START + virtual_s, UTC).isoformat()


HURRIED: tuple[Callable[[Random, Query], Query], ...] = (_budget, _deadline, _expiry_time)

# Records that are no queries


def _corrupt(query: Query) -> Query:
    return Query(query.at_s, query.partition, query.key, CORRUPT, reason="corrupt_record")


def _no_json(query: Query) -> Query:
    return Query(query.at_s, query.partition, query.key, b"no JSON", reason="not_json")


def _no_json_with_id(query: Query) -> Query:
    """Draw a record whose headers have an id, and more."""
    headers = ((h.CE_ID, b"named"), (h.LANE, b"prod"), ("x-session", b"1"))
    bare = Query(query.at_s, query.partition, query.key, b"{", headers, "named", reason="not_json")
    return bare._replace(causation="named")


def _empty(query: Query) -> Query:
    return Query(query.at_s, query.partition, query.key, None, reason="empty_value")


def _no_input(query: Query) -> Query:
    value = orjson.dumps({"query_id": query.query_id})
    bare = Query(query.at_s, query.partition, query.key, value, query_id=query.query_id)
    return bare._replace(reason="missing_field")


def _bad_id(query: Query) -> Query:
    value = orjson.dumps({"query_id": "not an id", "user_input": query.asks})
    bare = Query(query.at_s, query.partition, query.key, value, asks=query.asks)
    return bare._replace(reason="invalid_field")


def _unknown_lane(query: Query) -> Query:
    fields = {"query_id": query.query_id, "user_input": query.asks, "lane": "night"}
    bare = Query(query.at_s, query.partition, query.key, orjson.dumps(fields), query_id=query.query_id)
    return bare._replace(reason="unknown_lane")


def _no_budget(query: Query) -> Query:
    """Draw a query with an invalid budget, in any of the three forms."""
    return _more(query, budget_ms=0)._replace(reason="invalid_field")


BAD: tuple[Callable[[Query], Query], ...] = (
    _corrupt,
    _corrupt,
    _no_json,
    _no_json_with_id,
    _empty,
    _no_input,
    _bad_id,
    _no_budget,
)
