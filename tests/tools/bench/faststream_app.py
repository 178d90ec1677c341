# mypy: disable-error-code="import-not-found"
"""A contestant: the same work in FastStream, with its own limit of workers."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

from faststream import FastStream
from faststream.kafka import KafkaBroker

from .handwritten import work


def make(bootstrap: str, group_id: str, queries: str, results: str, slots: int) -> FastStream:
    """The application."""
    broker = KafkaBroker(bootstrap, logger=None, log_level=logging.WARNING)

    async def handle(query: dict[str, Any]) -> dict[str, Any]:
        return {"query_id": query["query_id"], "answer": await work(query)}

    subscriber = broker.subscriber(
        queries,
        group_id=group_id,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=10,
        max_workers=slots,
    )
    subscriber(broker.publisher(results)(handle))
    return FastStream(broker, logger=None)


def main() -> None:
    """Serve until SIGTERM."""
    bootstrap, group_id, queries, results, slots = sys.argv[1:6]
    asyncio.run(make(bootstrap, group_id, queries, results, int(slots)).run())


if __name__ == "__main__":
    main()
