"""The diagnosis: why Kafka is out of reach while the service runs, and what is done about it.

The client tells it to nothing but its log, and tries for ever. What may pass (names, networks, brokers) is
waited for. Credentials or certificates that are refused again and again do not get better by trying: the
process ends, to be started with those that hold now, before an account is locked. Where Kafka lets a new
client in again and again, and the running ones do not get through, these are rebuilt: they know addresses of
brokers that are not there any more, or use certificates of the past.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from fivestage.core.reachability import Reachability
from fivestage.errors import AccessError, ConfigurationError
from fivestage.kafka.connection.preflight import preflight
from fivestage.kafka.connection.rebuild_policy import Trouble

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.settings import KafkaSettings

INTERVAL_S: Final = 4.0
MAX_REFUSALS: Final = 3
"""In a row: a broker that has just started may not know all its users yet."""
MAX_DEAF_LOOKS: Final = 4
"""So often in a row a new client is let in while one that runs hears nothing: not for a moment only."""
CUT_OFF: Final = Trouble(
    "cut_off", "Kafka lets new clients in, and the one that runs does not get through to any broker"
)

log = structlog.get_logger("fivestage.kafka.connection.diagnosis")


class RunningClients(Protocol):
    """See Clients."""

    def have_heard(self) -> bool:
        """Whether each has had an answer since the last call."""

    def rebuild(self, trouble: Trouble) -> None:
        """Have all replaced."""

    def renew_certificates(self) -> None:
        """Read certificate files that have changed."""


class Diagnosis:
    """Asks Kafka like a new client would, for as long as the service is cut off from it."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._rejections = 0
        self._deaf_looks = 0
        self.reach = Reachability()
        self.cause: str | None = None
        """Why Kafka is out of reach, as far as is known."""

    async def run(self, is_cut_off: Callable[[], bool], clients: RunningClients | None = None) -> None:
        """Look around until cancelled.

        Raises:
            AccessError: Kafka refuses this client for good.
        """
        while True:
            await asyncio.sleep(INTERVAL_S)
            if clients is not None:
                clients.renew_certificates()
            cut_off = is_cut_off()
            found = await self._look() if cut_off else None
            self._note(found)
            if clients is not None and cut_off and found is None:
                self._listen(clients)
            else:
                self._deaf_looks = 0
            if found is not None and self._rejections >= MAX_REFUSALS:
                raise found

    async def _look(self) -> ConfigurationError | None:
        self.reach.doubt()
        try:
            await preflight(self._kafka)
        except ConfigurationError as problem:
            return problem
        return None

    def _note(self, found: ConfigurationError | None) -> None:
        cause = None if found is None else str(found)
        if cause != self.cause and cause is not None:
            log.warning("Kafka is out of reach", reason=cause)
        self.cause = cause
        self._rejections = self._rejections + 1 if isinstance(found, AccessError) else 0
        if found is None:
            self.reach.found(asyncio.get_running_loop().time())
        else:
            self.reach.lost()

    def _listen(self, clients: RunningClients) -> None:
        """Kafka lets new clients in: those that run should hear it too."""
        self._deaf_looks = 0 if clients.have_heard() else self._deaf_looks + 1
        if self._deaf_looks >= MAX_DEAF_LOOKS:
            self._deaf_looks = 0
            clients.rebuild(CUT_OFF)
