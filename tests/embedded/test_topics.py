"""The check of topics at the start of the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Producer

from fivestage.errors import ConfigurationError
from fivestage.kafka import topic_info, topics
from fivestage.settings import Settings

if TYPE_CHECKING:
    from support.mock import Mock

pytestmark = pytest.mark.broker


async def test_a_topic_that_appears_later(mock: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic that the broker does not know yet is asked for again; one that stays away is an error."""
    answers: list[str | None] = []
    really = topic_info.describe

    async def describe(*arguments: Any) -> dict[str, topic_info.TopicInfo]:
        found = await really(*arguments)
        answers.append(found["new"].error)
        if len(answers) == 2:  # a client that asks for a topic creates it on this broker
            Producer({"bootstrap.servers": mock.bootstrap}).list_topics("new", timeout=10)
        return found

    monkeypatch.setattr(topics, "describe", describe)
    monkeypatch.setattr(topics, "_VISIBLE_PAUSE_S", 0.0)
    kafka = {"bootstrap_servers": mock.bootstrap}
    settings = Settings.load(None, {"kafka": kafka, "topics": {"results": "new"}})
    found = await topics.check(settings)
    assert (answers[:2], answers[-1]) == (["UnknownTopicOrPartitionError"] * 2, None)
    assert found["new"].partitions > 0
    settings = Settings.load(None, {"kafka": kafka, "topics": {"results": "new", "timeouts": "nowhere"}})
    with pytest.raises(ConfigurationError, match="'nowhere' does not exist: create it"):
        await topics.check(settings)
