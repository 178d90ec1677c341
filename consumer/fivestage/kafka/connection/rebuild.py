"""Replaces a broken Kafka client, within a budget: stops the old client, connects a new one."""

from __future__ import annotations

import asyncio
import random
from itertools import count
from typing import TYPE_CHECKING, Protocol, TypeVar

import structlog

from fivestage._asyncio import wait_at_most
from fivestage.errors import BrokerError, FivestageError
from fivestage.kafka.connection.rebuild_policy import ClientFault, RebuildBudget, pause_s

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fivestage.core.observer import Observer
    from fivestage.core.reachability import Reachability

STOP_S = 3.0
"""Seconds that an old client may take to stop."""
ATTEMPT_S = 15.0
"""Seconds that one attempt to connect may take."""
PATIENCE_S = 120.0
"""Seconds that all attempts to connect may take while brokers can be reached."""

log = structlog.get_logger("fivestage.kafka.connection.rebuild")


class Client(Protocol):
    """A client that can be stopped."""

    async def stop(self) -> None:
        """Disconnect."""


C = TypeVar("C", bound=Client)


class Rebuilder:
    """Replaces one client of the service whenever it is broken, within a budget.

    Args:
        name: Names the client in metrics and logs.
        observer: Notified of every rebuild.
        reach: Whether brokers can be reached.
    """

    def __init__(self, name: str, observer: Observer, reach: Reachability) -> None:
        self._name = name
        self._reach = reach
        self._observer = observer
        self._budget = RebuildBudget(random.random)

    async def permit(self, fault: ClientFault) -> None:
        """Wait until the client may be rebuilt.

        Raises:
            BrokerError: the client was rebuilt too often lately.
        """
        wait_s = self._budget.take(asyncio.get_running_loop().time())
        if wait_s is None:
            raise BrokerError(
                f"the {self._name} was rebuilt {self._budget.most} times within "
                f"{self._budget.window_s:.0f} s and has failed again: {fault.text}"
            )
        self._observer.client_rebuilt(self._name, fault.reason)
        log.warning("rebuilding", client=self._name, reason=fault.reason, cause=fault.text)
        await asyncio.sleep(wait_s)

    async def stop(self, client: Client) -> None:
        """Stop the old client; if that fails or hangs, the caller must abort the client."""
        failure = await attempt_within(client.stop, STOP_S)
        if failure is not None:
            log.warning("left behind", part=self._name, reason=failure)

    async def connect(self, make: Callable[[], C], start: Callable[[C], Awaitable[object]]) -> C:
        """Make and start clients until one starts. While no broker can be reached there is no limit.

        When this is cancelled, the client that is being started is stopped.

        Raises:
            BrokerError: no client has started for PATIENCE_S although brokers can be reached.
        """
        clock = asyncio.get_running_loop().time
        started_at = clock()
        for attempt in count():
            try:
                client = make()
            except FivestageError as error:  # the certificate files may be half written
                failure: str | None = str(error)
            else:
                failure = "cancelled"
                try:
                    failure = await attempt_within(lambda: start(client), ATTEMPT_S)  # noqa: B023 - awaited here
                finally:
                    if failure is not None:
                        await attempt_within(client.stop, STOP_S)
                if failure is None:
                    log.info("rebuilt", client=self._name)
                    return client
            if self._reach.waited_s(started_at, clock()) > PATIENCE_S:
                break
            await asyncio.sleep(pause_s(attempt, random.random()))  # noqa: S311 - jitter
        raise BrokerError(f"the {self._name} could not be rebuilt within {PATIENCE_S:.0f} s: {failure}")


async def attempt_within(step: Callable[[], Awaitable[object]], limit_s: float) -> str | None:
    """Run a step, cancelled after *limit_s*; returns why it failed or did not end, None if it succeeded."""
    task = await wait_at_most(limit_s, step())
    if not task.done():
        return f"no end after {limit_s:.0f} s"
    if task.cancelled():
        return "cancelled by the client"
    error = task.exception()
    return None if error is None else f"{type(error).__name__}: {error}"
