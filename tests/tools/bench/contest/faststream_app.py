# mypy: disable-error-code="import-not-found, untyped-decorator"
"""Two contestants in FastStream: a message a call, and a batch a call (``--batch``).

With AckPolicy.ACK a message is committed when its handler has returned: a message a call means a commit for
each. The batch subscriber commits once a batch. ``--workers=N`` makes N members of the group, each with
partitions of its own.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Any

from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker, KafkaMessage

from fivestage_schemas import QueryEvent

from .arguments import Arguments
from .work import Where, Work, texts

if TYPE_CHECKING:
    from collections.abc import Iterable

BATCH = 500
LINGER_MS = 5
"""More concurrency is useless where one message at a time waits for its acknowledgements."""
QUERIES = list[QueryEvent]


class Application:
    """The handlers and what they share."""

    def __init__(self, given: Arguments, linger_ms: int) -> None:
        self.given = given
        self.work = Work(given.group_id)
        self.broker = KafkaBroker(
            given.bootstrap,
            acks="all",
            enable_idempotence=True,
            linger_ms=linger_ms,
            max_batch_size=64 * 1024,
            logger=None,
            log_level=logging.WARNING,
        )
        self.common: dict[str, Any] = {
            "group_id": given.group_id,
            "auto_offset_reset": "earliest",
            "ack_policy": AckPolicy.ACK,
        }

    def single(self, workers: int) -> None:
        """A message a call."""

        @self.broker.subscriber(self.given.queries, max_workers=workers, **self.common)
        async def handle(query: QueryEvent, message: KafkaMessage) -> None:
            await _acknowledged(await self.publish(query, message.raw_message))

    def batches(self) -> None:
        """A batch a call; the queries of a batch are worked on at the same time."""

        @self.broker.subscriber(self.given.queries, batch=True, max_records=BATCH, **self.common)
        async def handle(queries: QUERIES, message: KafkaMessage) -> None:
            records: Any = message.raw_message
            pairs = zip(queries, records, strict=True)
            for sent in await asyncio.gather(*(self.publish(query, record) for query, record in pairs)):
                await _acknowledged(sent)

    async def publish(self, query: QueryEvent, record: Any) -> list[asyncio.Future[Any]]:
        """Answer one query and hand over its events; what is returned ends when the brokers have them."""
        where = Where(record.topic, record.partition, record.offset, record.timestamp, texts(record.headers))
        return [
            await self.broker.publish(
                event.value,
                self.given.topic(is_result=event.is_result),
                key=record.key,
                headers=event.headers,
                no_confirm=True,
            )
            for event in await self.work.answer(query, where)
        ]


async def _acknowledged(sent: Iterable[asyncio.Future[Any]]) -> None:
    for future in sent:
        await future


def main() -> None:
    """Serve until SIGTERM."""
    batch = "--batch" in sys.argv
    application = Application(Arguments.read(), linger_ms=LINGER_MS if batch else 0)
    if batch:
        application.batches()
    else:
        application.single(Arguments.option("--workers", 1))
    asyncio.run(FastStream(application.broker, logger=None).run())


if __name__ == "__main__":
    main()
