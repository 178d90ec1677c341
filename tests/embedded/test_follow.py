"""Following topics, as the commands do, when the broker changes its mind."""

from __future__ import annotations

import pytest

from fivestage.errors import BrokerError
from fivestage.kafka.tools.client import follow
from fivestage.settings import Settings, TopicSettings
from support.mock import FETCH, Mock

pytestmark = pytest.mark.broker
TOPIC_AUTHORIZATION_FAILED = 29


async def test_a_right_that_is_taken_away() -> None:
    """A fetch that the broker rejects raises an error of fivestage, which the commands print as one line."""
    with Mock() as mock:
        settings = Settings.load(None, {"kafka": {"bootstrap_servers": mock.bootstrap}})
        mock.push(FETCH, [TOPIC_AUTHORIZATION_FAILED] * 100)
        with pytest.raises(BrokerError, match="cannot be read: TopicAuthorizationFailedError"):
            async for _ in follow(settings, TopicSettings().results, from_beginning=True):
                pass
