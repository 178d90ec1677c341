"""A consumer for the embedded broker: what its groups need that those of real brokers do not.

librdkafka's mock (``rdkafka_mock_cgrp.c``, 2.16):

* keeps a group closed after a member has left, the last one too, for the session timeout less 1 s: with a
  session of 30 s a restart waits so long, its request to join times out and adds a member that never ends;
* refuses a member whose SyncGroup comes after the leader's, which a leader that waits a moment prevents.
"""

from __future__ import annotations

from typing import Any, Final

from aiokafka import AIOKafkaConsumer

from fivestage.kafka import aiokafka_internals

SESSION_MS: Final = 3000
"""Short: a restart waits 1 s less. Long enough for a process that does not get the CPU for a while."""
HEARTBEAT_MS: Final = 300
"""How soon a member sees that another has come; it must rejoin within SESSION_MS less 1 s."""
LEADER_DELAY_S: Final = 0.2
"""How much later than the others the leader syncs; they need a roundtrip on this machine."""


class EmbeddedConsumer(AIOKafkaConsumer):
    """A member of a group on the embedded broker; made as any consumer is.

    Its session and its heartbeats are those above where the options ask for longer ones.
    """

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
    """The consumer to use, on the embedded broker or a real one."""
    return EmbeddedConsumer if embedded else AIOKafkaConsumer
