"""Several query topics, by name and by pattern."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fivestage.kafka.embedded_broker import EmbeddedBroker
from fivestage.settings import TopicSettings
from support.checker import committed, headers_of, json_of, read_all, wait_for_results, wait_until_committed
from support.feeder import event, write
from support.operations import port_of
from support.probe import metrics
from support.process import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.broker
TOPICS = TopicSettings()
INPUTS, NOT_OURS = ("orders.eu", "orders.us"), "returns.eu"


@pytest.fixture
async def bootstrap() -> AsyncIterator[str]:
    """Start an embedded broker with two query topics, another topic, and the outputs."""
    names = (*INPUTS, NOT_OURS, *TOPICS.outputs.values())
    async with EmbeddedBroker(names, partitions=1) as broker:
        yield broker.bootstrap


@pytest.mark.parametrize("queries", ["orders.eu, orders.us", r"^orders\."])
async def test_queries_of_several_topics(bootstrap: str, queries: str) -> None:
    """Equal partitions and offsets of two topics have two answers, ids, commits and lags."""
    for name in (*INPUTS, NOT_OURS):
        write(bootstrap, name, [(None, event(name, "fast"))])
    with ServiceProcess("support.apps:load", bootstrap, {"topics.queries": queries}) as service:
        wait_for_results(bootstrap, TOPICS.results, 2)
        for name in INPUTS:
            wait_until_committed(bootstrap, "fivestage", name, 1)
        lags = metrics(port_of(service), "fivestage_lag")
        assert service.end() == 0
    results = read_all(bootstrap, TOPICS.results)
    found = {json_of(one)["query_id"]: json_of(one)["source"]["topic"] for one in results}
    assert found == {name: name for name in INPUTS}
    assert {headers_of(one)["ce_id"] for one in results} == {f"{name}/0/0/result" for name in INPUTS}
    assert lags == {f'{{partition="0",topic="{name}"}}': 0 for name in INPUTS}
    assert committed(bootstrap, "fivestage", NOT_OURS) == {}
    [ready] = [line for line in service.log if line["event"] == "ready"]
    assert ready["partitions"] == [f"{name}/0" for name in INPUTS]


async def test_a_pattern_that_matches_no_topic(bootstrap: str) -> None:
    """The service does not start and names the pattern."""
    service = ServiceProcess("support.apps:load", bootstrap, {"topics.queries": "^nothing"})
    service.launch()
    assert service.wait() == 2
    assert "matches topics.queries = '^nothing'" in service.log[-1]["error"]
