# mypy: disable-error-code="import-not-found, misc"
"""A contestant in Quix Streams: one StreamingDataFrame that makes six rows of one.

It is synchronous, so the asynchronous stages run on a separate loop, a message at a time. Its
checkpoints wait for all published records and commit then.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Any

from quixstreams import Application, message_context
from quixstreams.kafka import ConnectionConfig
from quixstreams.models import Serializer, TopicAdmin, TopicConfig, TopicManager

from fivestage_schemas import QueryEvent

from .arguments import Arguments
from .work import Event, Where, Work, texts

if TYPE_CHECKING:
    from collections.abc import Iterable

COMMIT_S = 1.0
logger = logging.getLogger(__name__)


class EventSerializer(Serializer):
    """The value of an event."""

    def __call__(self, value: Event, ctx: Any) -> bytes:
        """Called for each record."""
        del ctx
        return value.encoded()


class PlainAdmin(TopicAdmin):
    """Asks for no configurations: the embedded broker would not answer."""

    def inspect_topics(self, topic_names: list[str], timeout: float = 30) -> dict[str, Any]:
        """Partitions alone."""
        found = self.list_topics(timeout)
        return {name: TopicConfig(len(found[name].partitions), 1) for name in topic_names}


def main() -> None:
    """Serve until SIGTERM."""
    given = Arguments.read()
    work, loop = Work(given.group_id), asyncio.new_event_loop()
    app = Application(
        given.bootstrap,
        consumer_group=given.group_id,
        auto_offset_reset="earliest",
        auto_create_topics=False,
        commit_interval=COMMIT_S,
        producer_extra_config={"acks": "all", "enable.idempotence": True, "linger.ms": 5},
        loglevel="WARNING",
        topic_manager=_plain_manager(given) if "--embedded" in sys.argv else None,
    )

    def answer(
        value: bytes, _key: bytes, timestamp: int, headers: Iterable[tuple[str, bytes]]
    ) -> list[Event]:
        context = message_context()
        where = Where(context.topic, context.partition, context.offset, timestamp, texts(headers))
        return loop.run_until_complete(work.answer(QueryEvent.model_validate_json(value), where))

    outputs = {
        flag: app.topic(
            given.topic(is_result=flag), key_serializer="bytes", value_serializer=EventSerializer()
        )
        for flag in (False, True)
    }
    frame = app.dataframe(app.topic(given.queries, key_deserializer="bytes", value_deserializer="bytes"))
    frame = frame.apply(answer, expand=True, metadata=True)
    frame = frame.set_headers(lambda event, *_: event.header_list())
    frame.to_topic(lambda event, *_: outputs[event.is_result])
    app.run()


def _plain_manager(given: Arguments) -> TopicManager:
    admin = PlainAdmin(ConnectionConfig(bootstrap_servers=given.bootstrap), logger)
    return TopicManager(admin, given.group_id, auto_create_topics=False)


if __name__ == "__main__":
    main()
