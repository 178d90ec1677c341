"""Fixtures with a real Kafka broker; every test in this folder has the marker ``kafka``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from .broker import RealBroker, TopicSet, Unavailable, acquire, create_topics, delete_topics
from .sharing import shared_broker

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HERE = Path(__file__).parent


class MakeTopics(Protocol):
    """Creates a set of topics under a new prefix, on the shared broker unless another is given."""

    def __call__(self, partitions: int = 3, broker: RealBroker | None = None) -> TopicSet:
        """Create the topics."""


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, for runs without the project's settings."""
    config.addinivalue_line("markers", "kafka: needs a real Apache Kafka broker")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.kafka)


def _lend(*, properties: Mapping[str, str] | None = None) -> Iterator[RealBroker]:
    """Lend a separate broker that is removed afterwards."""
    with _there(acquire(own=True, properties=properties)) as broker:
        yield broker


def _there(broker: RealBroker | Unavailable) -> RealBroker:
    """Return the broker, or skip the test; fail where Kafka is required."""
    if isinstance(broker, RealBroker):
        return broker
    if os.environ.get("FIVESTAGE_REQUIRE_KAFKA") == "1":
        pytest.fail(broker.reason, pytrace=False)
    pytest.skip(broker.reason)


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config) -> Iterator[RealBroker]:
    """Lend the broker shared by the whole run; tests may not stop it.

    Its data is in memory; not what the long tests write, which is more than some machines have.
    """
    with shared_broker(in_memory=not pytestconfig.getoption("--long")) as broker:
        yield _there(broker)


@pytest.fixture
def own_kafka(request: pytest.FixtureRequest) -> Iterator[RealBroker]:
    """Lend a separate broker; an indirect parameter is a dict of extra broker properties."""
    yield from _lend(properties=getattr(request, "param", None))


@pytest.fixture
def make_topics(request: pytest.FixtureRequest) -> Iterator[MakeTopics]:
    """Lend a function that creates a set of topics."""
    made: list[tuple[RealBroker, TopicSet]] = []

    def make(partitions: int = 3, broker: RealBroker | None = None) -> TopicSet:
        target = broker or request.getfixturevalue("kafka")
        topics = create_topics(target, partitions)
        made.append((target, topics))
        return topics

    yield make
    for broker, topics in made:
        if broker.mode == "external":  # other brokers are removed whole
            delete_topics(broker, topics)


@pytest.fixture
def topics(make_topics: MakeTopics) -> TopicSet:
    """Create the five topics with three partitions each on the shared broker."""
    return make_topics()
