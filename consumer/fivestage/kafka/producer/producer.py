"""Holds the current producer client and replaces it when it is broken.

A rejected batch leaves a gap in the sequence numbers of its partition, and brokers reject every batch after a
gap. Only a new producer id helps.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from fivestage.errors import BrokerError
from fivestage.kafka import aiokafka_internals
from fivestage.kafka.connection.connection import client_options
from fivestage.kafka.connection.preflight import answering_server
from fivestage.kafka.connection.rebuild import Rebuilder
from fivestage.kafka.producer.client import ProducerClient
from fivestage.kafka.producer.compression import codec_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fivestage.core.observer import Observer
    from fivestage.core.reachability import Reachability
    from fivestage.kafka.connection.rebuild_policy import ClientFault
    from fivestage.settings import Settings


class Producer:
    """The producer client, and the settings by which its batches and requests are made.

    Args:
        settings: Where to connect and how.
        observer: Notified of every rebuild, and of throttling.
        reach: Whether brokers can be reached.
        max_record_bytes: The largest record that all output topics accept.
        on_retiring: Awaited before a client is stopped: nothing may be sent with it afterwards.
        on_rebuilt: Called when a new client is connected.
        on_failure: Called when no new client will be made.
        make_client: Makes the client; a simulation passes another.

    Raises:
        ConfigurationError: the library for ``kafka.compression`` is not installed.
    """

    def __init__(
        self,
        settings: Settings,
        observer: Observer,
        *,
        max_record_bytes: int,
        on_retiring: Callable[[], Awaitable[None]],
        on_rebuilt: Callable[[], None],
        on_failure: Callable[[BrokerError], None],
        reach: Reachability,
        make_client: Callable[..., ProducerClient] = ProducerClient,
    ) -> None:
        self._kafka = settings.kafka
        self._topics = settings.topics.outputs.values()
        self._make_client = make_client
        self.max_batch_bytes = min(settings.kafka.publish_batch_bytes, max_record_bytes)
        self.max_request_bytes = settings.kafka.publish_request_bytes
        self.request_timeout_ms = settings.kafka.request_timeout_ms
        self.codec = codec_of(settings.kafka.compression)
        self.on_throttled = partial(observer.throttled, "producer")
        self._on_retiring = on_retiring
        self._on_rebuilt = on_rebuilt
        self._on_failure = on_failure
        self._rebuilder = Rebuilder("producer", observer, reach)
        self._rebuilding: asyncio.Task[None] | None = None
        self._stopping = False
        self.fault: ClientFault | None = None
        """Why the client is being rebuilt, while it is; nothing may be sent meanwhile."""
        self.client = self._make()

    def __repr__(self) -> str:
        return f"<Producer {'ok' if self.fault is None else self.fault.reason}>"

    def _make(self) -> ProducerClient:
        return self._make_client(**client_options(self._kafka))

    async def start(self) -> dict[str, list[int]]:
        """Connect; returns the partitions of the output topics.

        Raises:
            ConfigurationError: no bootstrap server can be used; see preflight.
            KafkaError: no broker answers, or a topic or a right is missing.
        """
        return await self._connect(self.client)

    async def _connect(self, client: ProducerClient) -> dict[str, list[int]]:
        aiokafka_internals.bootstrap_from(client.client, lambda: answering_server(self._kafka))
        await client.start()
        return await client.partitions(self._topics, self.request_timeout_ms / 1000)

    def partition_count(self, topic: str) -> int:
        """The number of partitions as of the last metadata; 0 if the topic does not exist or is hidden."""
        return len(self.client.client.cluster.partitions_for_topic(topic) or ())

    def rebuild(self, fault: ClientFault) -> None:
        """Replace the client, unless it is being replaced or the service stops."""
        if self.fault is None and not self._stopping:
            self.fault = fault
            self._rebuilding = asyncio.get_running_loop().create_task(self._rebuild(fault))

    def close_idle_connections(self, host: str, port: int) -> None:
        """Close idle connections to a broker that did not answer the consumer: they may be dead too.

        Otherwise the next batch would wait for a whole request timeout.
        """
        aiokafka_internals.close_idle_connections(self.client.client, host, port)

    async def _rebuild(self, fault: ClientFault) -> None:
        try:
            await self._rebuilder.permit(fault)
            await self._on_retiring()
            await self._rebuilder.stop(self.client)
            aiokafka_internals.abort_client(self.client.client)
            self.client = await self._rebuilder.connect(self._make, self._connect)
        except Exception as error:  # noqa: BLE001 - the service stops after any
            text = str(error) if isinstance(error, BrokerError) else f"internal error: {type(error).__name__}"
            self._on_failure(BrokerError(text))
            return
        self.fault = None
        self._on_rebuilt()

    async def stop(self) -> None:
        """Disconnect. Without brokers this never returns: the caller limits it."""
        self._stopping = True
        if self._rebuilding is not None:
            self._rebuilding.cancel()
        await self.client.stop()
