"""Fixtures of the tests on a mock broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fivestage.settings import Settings
from support.mock import Mock
from support.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


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
