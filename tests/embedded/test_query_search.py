"""Finding the events of a query on the topics."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from fivestage.core.records import Output
from fivestage.errors import ConfigurationError
from fivestage.kafka.tools.newest_first import FIRST_WINDOW
from fivestage.kafka.tools.query_search import search
from fivestage.settings import Settings
from support.feeder import write

if TYPE_CHECKING:
    from support.mock import Mock

pytestmark = pytest.mark.broker
MANY = 4 * FIRST_WINDOW
HOUR_MS = 3_600_000


def settings_of(mock: Mock, **topics: str) -> Settings:
    """Return settings for the broker."""
    return Settings.load(None, {"kafka": {"bootstrap_servers": mock.bootstrap}, "topics": topics})


def put(mock: Mock, subject: str, offset: int, count: int = 1, key: str = "key") -> None:
    """Write records as results of the query at *offset*."""
    ce_id = f"fivestage.queries/0/{offset}/result"
    headers = [("ce_subject", subject.encode()), ("ce_id", ce_id.encode())]
    write(mock.bootstrap, "fivestage.results", [(key, b"{}")] * count, headers)


async def test_far_back(mock: Mock) -> None:
    """A record many windows before the end is found; all records after it were read once."""
    put(mock, "wanted", 7)
    put(mock, "other", 8, MANY)
    found = await search(settings_of(mock), "wanted", since_ms=(time.time() * 1000) - HOUR_MS)
    assert [record.key for record in found.events[Output.RESULTS]] == [b"key"]
    assert found.searched[0].records == MANY + 1


async def test_the_newest_of_an_id(mock: Mock) -> None:
    """Of two queries with one id only the events of the newer one are returned, however often published."""
    put(mock, "twice", 1)
    put(mock, "twice", 2, 3)
    found = await search(settings_of(mock), "twice", since_ms=0)
    ids = [dict(record.headers)["ce_id"] for record in found.events[Output.RESULTS]]
    assert ids == [b"fivestage.queries/0/2/result"] * 3


async def test_question_of_a_late_answer(mock: Mock) -> None:
    """The query is read where its result says it is, although it was written long before the result."""
    asked = [(f"key-{number}", b"the question") for number in range(20)]  # some are in partition 0
    write(mock.bootstrap, "fivestage.queries", asked, timestamp_ms=1_000_000)
    put(mock, "late", 0)
    now_ms = time.time() * 1000
    found = await search(settings_of(mock), "late", since_ms=now_ms - HOUR_MS, with_query=True)
    assert [record.value for record in found.queries] == [b"the question"]
    put(mock, "gone", 99)
    found = await search(settings_of(mock), "gone", since_ms=now_ms - HOUR_MS, with_query=True)
    assert found.queries == []


async def test_since(mock: Mock) -> None:
    """A window whose records are all older ends the search."""
    put(mock, "old", 1, MANY)
    found = await search(settings_of(mock), "old", since_ms=(time.time() * 1000) + HOUR_MS)
    assert found.events[Output.RESULTS] == []
    assert found.searched[0].records <= FIRST_WINDOW


async def test_inputs_by_pattern(mock: Mock) -> None:
    """Without a result the query is looked for in all input topics, also in those of a pattern."""
    write(mock.bootstrap, "fivestage.queries", [(None, b'{"query_id":"waits","user_input":"2"}')])
    found = await search(settings_of(mock, queries=r"^fivestage\.quer"), "waits", since_ms=0)
    assert [record.topic for record in found.queries] == ["fivestage.queries"]


async def test_no_topic(mock: Mock) -> None:
    """Without the topic of results there is nothing to search."""
    with pytest.raises(ConfigurationError, match="'nowhere' does not exist"):
        await search(settings_of(mock, results="nowhere"), "a", since_ms=0)
