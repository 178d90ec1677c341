"""Fixtures of the tests on an embedded broker, and on a mock broker that fails on request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fivestage.settings import Settings
from support.embedded import Broker, Installation
from support.mock import Mock
from support.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """Start one broker for all tests of this process."""
    with Broker() as broker:
        yield broker


@pytest.fixture
def place(broker: Broker) -> Installation:
    """Lend topics and a group of this test."""
    return broker.installation()


@pytest.fixture
def mock() -> Iterator[Mock]:
    """Start a mock broker that fails on request."""
    with Mock() as mock:
        yield mock


@pytest.fixture
async def publisher(mock: Mock) -> AsyncIterator[Publisher]:
    """Start an event sink."""
    publisher = Publisher(Settings.load(None, {"kafka": {"bootstrap_servers": mock.bootstrap}}))
    await publisher.sink.start()
    yield publisher
    await publisher.sink.stop()
