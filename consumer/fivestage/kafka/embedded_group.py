"""A consumer for the embedded broker, whose groups behave differently from those of real brokers.

librdkafka's mock (``rdkafka_mock_cgrp.c``, 2.16):

* keeps a group closed for the session timeout less 1 s after a member has left, even the last one. With a
  session of 30 s a restart would wait that long; its join request times out and adds a member for ever;
* rejects a member whose SyncGroup arrives after the leader's, so the leader sends its own a little later.
"""

from __future__ import annotations

from typing import Any, Final

from aiokafka import AIOKafkaConsumer

from fivestage.kafka import aiokafka_internals

SESSION_MS: Final = 3000
"""A restart waits 1 s less than this. Long enough for a process that gets no CPU for a moment."""
HEARTBEAT_MS: Final = 300
"""How soon a member notices that another joins; it must rejoin within SESSION_MS less 1 s."""
LEADER_DELAY_S: Final = 0.2
"""How much later than the other members the leader syncs; they need one local roundtrip."""


class EmbeddedConsumer(AIOKafkaConsumer):
    """A consumer with at most the session timeout and heartbeat interval above."""

    def __init__(
        self, *topics: str, session_timeout_ms: int, heartbeat_interval_ms: int, **options: Any
    ) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            *topics,
            session_timeout_ms=min(session_timeout_ms, SESSION_MS),
            heartbeat_interval_ms=min(heartbeat_interval_ms, HEARTBEAT_MS),
            **options,
        )

    async def start(self) -> None:
        """Connect; see AIOKafkaConsumer."""
        await super().start()  # type: ignore[no-untyped-call]
        aiokafka_internals.delay_leader(self, LEADER_DELAY_S)


def consumer_class(*, embedded: bool) -> type[AIOKafkaConsumer]:
    """The consumer class for the embedded broker or a real one."""
    return EmbeddedConsumer if embedded else AIOKafkaConsumer
