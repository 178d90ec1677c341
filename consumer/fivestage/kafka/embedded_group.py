"""A consumer for the embedded broker, whose groups behave differently from those of real brokers.

librdkafka's mock (``rdkafka_mock_cgrp.c``, 2.16):

* keeps a group closed for the session timeout less 1 s after a member has left, even the last one. With a
  session timeout of 30 s a restarted member would wait 29 s, and each join request that times out meanwhile
  would leave a dead member in the group for ever;
* rejects a member whose SyncGroup arrives after the leader's, so the leader delays its SyncGroup.
"""

from __future__ import annotations

from typing import Any, Final

from aiokafka import AIOKafkaConsumer

from fivestage.kafka import aiokafka_internals

SESSION_MS: Final = 3000
"""Milliseconds: short, as a restart waits for all but 1 s of them; long enough for a moment without CPU."""
HEARTBEAT_MS: Final = 300
"""Milliseconds until a member notices that another one joins; then it must rejoin in SESSION_MS less 1 s."""
LEADER_DELAY_S: Final = 0.2
"""Seconds by which the leader syncs after the other members, which need one local roundtrip."""


class EmbeddedConsumer(AIOKafkaConsumer):
    """A consumer whose session timeout is at most SESSION_MS, its heartbeat interval at most HEARTBEAT_MS."""

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
