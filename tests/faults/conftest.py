"""The fixtures with a real Kafka broker, as in ``tests/kafka``, and one that asks who is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from faults.guarded import GuardedBroker, guarded_broker
from kafka.conftest import kafka, make_topics, own_kafka, topics

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["guarded", "kafka", "make_topics", "own_kafka", "topics"]


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedBroker]:
    """Lend a broker with TLS, credentials and rights; all tests share it."""
    yield from guarded_broker(tmp_path_factory.mktemp("guarded"))
