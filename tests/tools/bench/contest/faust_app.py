# mypy: disable-error-code="import-not-found, untyped-decorator"
"""A contestant in Faust: one agent with so many actors.

An event counts as done when its actor asks for the next one, which it does when the brokers have all records.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import faust

from fivestage_schemas import QueryEvent

from .arguments import Arguments
from .work import Where, Work, texts

ACTORS = 256


def make(given: Arguments) -> faust.App:
    """The application."""
    app = faust.App(
        given.group_id,
        broker=f"kafka://{given.bootstrap}",
        consumer_auto_offset_reset="earliest",
        producer_acks=-1,
        producer_linger=0.005,
        producer_max_batch_size=64 * 1024,
        stream_buffer_maxsize=4096,
        broker_commit_interval=0.5,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        store="memory://",
        datadir=tempfile.mkdtemp(prefix="bench-faust-"),
    )
    raw: dict[str, Any] = {"key_serializer": "raw", "value_serializer": "raw"}
    outputs = {flag: app.topic(given.topic(is_result=flag), **raw) for flag in (False, True)}
    work = Work(given.group_id)

    @app.agent(app.topic(given.queries, **raw), concurrency=ACTORS)
    async def answer(stream: faust.StreamT[bytes]) -> None:
        async for event in stream.events():
            record = event.message
            at = int(record.timestamp * 1000)
            headers = texts((event.headers or {}).items())
            where = Where(record.topic, record.partition, record.offset, at, headers)
            events = await work.answer(QueryEvent.model_validate_json(event.value), where)
            sent = [
                await outputs[one.is_result].send(
                    key=record.key, value=one.encoded(), headers=one.header_list()
                )
                for one in events
            ]
            for future in sent:
                await future

    return app


if __name__ == "__main__":
    application = make(Arguments.read())
    sys.argv[1:] = ["--quiet", "worker", "--loglevel=warn", "--without-web"]
    application.main()
