"""Finds out why Kafka is unreachable while the service runs, and reacts to it.

aiokafka only logs why it cannot connect, and retries for ever. So, while the service is cut off,
``Diagnosis`` connects like a new client every few seconds:

* a host name, the network or the brokers fail: they may recover, so it waits;
* credentials or certificates are rejected: retries do not help, so after a few rejections in a row the
  process exits, to be restarted with current ones before the account is locked;
* a new client connects but the running ones receive no answers: they use old broker addresses or old
  certificates, so they are rebuilt.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from fivestage.core.reachability import Reachability
from fivestage.errors import AccessError, ConfigurationError
from fivestage.kafka.connection.preflight import preflight
from fivestage.kafka.connection.rebuild_policy import ClientFault

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.kafka.connection.clients import Clients
    from fivestage.settings import KafkaSettings

INTERVAL_S: Final = 4.0
MAX_REJECTIONS: Final = 3
"""Rejections in a row before the process exits; a broker that has just started may lack some users."""
MAX_SILENT_CHECKS: Final = 4
"""Checks in a row in which a new client connects but a running one has no answer, before both are rebuilt."""
CUT_OFF: Final = ClientFault(
    "cut_off", "new clients can connect to Kafka, but the running ones get no answer"
)

log = structlog.get_logger("fivestage.kafka.connection.diagnosis")


class Diagnosis:
    """Connects to Kafka like a new client for as long as the service is cut off from it."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._rejections = 0
        self._silent_checks = 0
        self.reach = Reachability()
        self.cause: str | None = None
        """Why Kafka is unreachable; None while it is reachable or nothing is known."""

    async def run(self, is_cut_off: Callable[[], bool], clients: Clients | None = None) -> None:
        """Check every INTERVAL_S until cancelled.

        Raises:
            AccessError: Kafka has rejected this client MAX_REJECTIONS times in a row.
        """
        while True:
            await asyncio.sleep(INTERVAL_S)
            if clients is not None:
                clients.renew_certificates()
            cut_off = is_cut_off()
            problem = await self._connect() if cut_off else None
            self._note(problem)
            if clients is not None and cut_off and problem is None:
                self._check_running(clients)
            else:
                self._silent_checks = 0
            if problem is not None and self._rejections >= MAX_REJECTIONS:
                raise problem

    async def _connect(self) -> ConfigurationError | None:
        """Connect as a new client; returns what prevents it."""
        self.reach.doubt()
        try:
            await preflight(self._kafka)
        except ConfigurationError as problem:
            return problem
        return None

    def _note(self, problem: ConfigurationError | None) -> None:
        cause = None if problem is None else str(problem)
        if cause != self.cause and cause is not None:
            log.warning("Kafka is out of reach", reason=cause)
        self.cause = cause
        self._rejections = self._rejections + 1 if isinstance(problem, AccessError) else 0
        if problem is None:
            self.reach.found(asyncio.get_running_loop().time())
        else:
            self.reach.lost()

    def _check_running(self, clients: Clients) -> None:
        """Rebuild the running clients if not all of them had answers in MAX_SILENT_CHECKS in a row."""
        self._silent_checks = 0 if clients.all_have_answers() else self._silent_checks + 1
        if self._silent_checks >= MAX_SILENT_CHECKS:
            self._silent_checks = 0
            clients.rebuild(CUT_OFF)
