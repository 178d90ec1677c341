"""The six records of a query, for contestants that only read and write."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from fivestage_schemas import QueryEvent

from .work import Where, Work

if TYPE_CHECKING:
    from .arguments import Arguments

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


class Payload(NamedTuple):
    """One record, without its key."""

    topic: str
    value: bytes
    headers: list[tuple[str, bytes]]


def payloads(given: Arguments) -> list[Payload]:
    """Build payloads as large as those of the other contestants."""
    where = Where(given.queries, 0, 12_345, 0, {"traceparent": TRACEPARENT})
    events = asyncio.run(Work(given.group_id).answer(QueryEvent(query_id="q12345", user_input="2+2"), where))
    return [Payload(given.topic(is_result=one.is_result), one.encoded(), one.header_list()) for one in events]
