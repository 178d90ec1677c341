"""Clients of Kafka are made anew when they are beyond repair: how often, how, and until when."""

from __future__ import annotations

import asyncio
import random
from itertools import count
from typing import TYPE_CHECKING, Protocol, TypeVar

import structlog

from fivestage._asyncio import wait_at_most
from fivestage.core.reachability import Reachability
from fivestage.errors import BrokerError, FivestageError
from fivestage.kafka.connection.rebuild_policy import RebuildBudget, Trouble, pause_s

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fivestage.core.observer import Observer

STOP_S = 3.0
"""How long an old client may take to end."""
ATTEMPT_S = 15.0
PATIENCE_S = 120.0
"""How long a new client may take to connect, while brokers can be reached."""

log = structlog.get_logger("fivestage.kafka.connection.rebuild")


class Client(Protocol):
    """What can be stopped."""

    async def stop(self) -> None:
        """Disconnect."""


C = TypeVar("C", bound=Client)


class Rebuilds:
    """Keeps the budget of one client, and makes it anew.

    Args:
        name: What the client is.
        observer: Notified of every rebuild.
        reach: Whether brokers can be reached.
    """

    def __init__(self, name: str, observer: Observer, reach: Reachability | None = None) -> None:
        self._name = name
        self._reach = reach or Reachability()
        self._observer = observer
        self._random = random.random
        self._budget = RebuildBudget(self._random)

    async def permit(self, trouble: Trouble) -> None:
        """Wait until the client may be made anew.

        Raises:
            BrokerError: it was too often already.
        """
        wait_s = self._budget.take(asyncio.get_running_loop().time())
        if wait_s is None:
            raise BrokerError(
                f"the {self._name} was rebuilt {self._budget.most} times within "
                f"{self._budget.window_s:.0f} s and has failed again: {trouble.text}"
            )
        self._observer.client_rebuilt(self._name, trouble.reason)
        log.warning("rebuilding", client=self._name, reason=trouble.reason, cause=trouble.text)
        await asyncio.sleep(wait_s)

    async def connected(self, make: Callable[[], C], start: Callable[[C], Awaitable[object]]) -> C:
        """Make the client and start it, again and again, for as long as no broker can be reached.

        When this is cancelled, a client whose start is under way is stopped.

        Raises:
            BrokerError: brokers can be reached, and it does not start for long.
        """
        clock = asyncio.get_running_loop().time
        started_at = clock()
        for attempt in count():
            try:
                client = make()
            except FivestageError as error:  # certificates that are being exchanged, perhaps
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
            await asyncio.sleep(pause_s(attempt, self._random()))
        raise BrokerError(f"the {self._name} could not be rebuilt within {PATIENCE_S:.0f} s: {failure}")


async def attempt_within(step: Callable[[], Awaitable[object]], limit_s: float) -> str | None:
    """Run a step that may hang; return what went wrong, or None. See ``wait_at_most``."""
    task = await wait_at_most(limit_s, step())
    if not task.done():
        return f"no end after {limit_s:.0f} s"
    if task.cancelled():
        return "cancelled by the client"
    error = task.exception()
    return None if error is None else f"{type(error).__name__}: {error}"
