"""Checks that each contestant does the work: a few queries each, and every published record."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson

from .answers import read_all
from .drain import work_off
from .load import query_id
from .parts import PARTITIONS
from .place import places

if TYPE_CHECKING:
    from collections.abc import Iterable

    from confluent_kafka import Message

    from .entries import Contestant
    from .place import Place

QUERIES = 500
STAGES = range(5)
HEADERS = {
    "ce_id", "ce_type", "ce_specversion", "ce_source", "ce_subject", "ce_time", "ce_correlationid",
    "ce_causationid", "content-type", "traceparent", "lane",
}  # fmt: skip


async def check(field: dict[str, Contestant], kafka: str | None, limit_s: float) -> None:
    """Let the working contestants answer a few queries.

    Raises:
        SystemExit: one has not published exactly the expected records.
    """
    working = {name: one for name, one in field.items() if one.same_work}
    async with places(len(working), kafka, PARTITIONS) as there:
        for (name, contestant), place in zip(working.items(), there, strict=True):
            await work_off(place, contestant, QUERIES, limit_s)
            problems = await asyncio.to_thread(problems_of, place, QUERIES)
            results = await asyncio.to_thread(read_all, place.bootstrap, place.topics.results)
            if problems:
                raise SystemExit(f"{name}: {problems}")
            counts = f"{QUERIES} results, {QUERIES * len(STAGES)} stage results"
            print(f"{name}: {QUERIES} queries, {counts}, {_successes(results)} successes", flush=True)


def problems_of(place: Place, count: int) -> list[str]:
    """Return the faults of the records published for the first *count* queries."""
    results = read_all(place.bootstrap, place.topics.results)
    stages = read_all(place.bootstrap, place.topics.stage_results)
    names = [query_id(number) for number in range(count)]
    answers = [orjson.loads(message.value() or b"null") for message in results]
    steps = Counter((one["query_id"], one["sequence"]) for one in map(_value, stages))
    wrong = {
        "not one result each": Counter(one["query_id"] for one in answers) != Counter(names),
        "not five stage results each": steps != Counter((name, step) for name in names for step in STAGES),
        "most did not succeed": _successes(results) < count / 2,  # on a busy machine some time out
        "headers are missing": any(HEADERS - headers_of(message).keys() for message in [*results, *stages]),
        "an event's id is there twice": _repeats([*results, *stages]),
    }
    return [problem for problem, is_so in wrong.items() if is_so]


def _successes(results: Iterable[Message]) -> int:
    return sum(_value(message)["status"] == "success" for message in results)


def _value(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(message.value() or b"null")
    return found


def headers_of(message: Message) -> dict[str, str]:
    """Return a record's headers as text."""
    return {name: (value or b"").decode() for name, value in _pairs(message)}


def _pairs(message: Message) -> Iterable[tuple[str, Any]]:
    found = message.headers() or []
    return found.items() if isinstance(found, dict) else found


def _repeats(messages: Iterable[Message]) -> bool:
    ids = Counter(headers_of(message).get("ce_id") for message in messages)
    return any(number > 1 for number in ids.values())
