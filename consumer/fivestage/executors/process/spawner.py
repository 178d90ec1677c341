"""Makes the links to worker processes, and ends all of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import structlog

from fivestage.errors import ExecutorError
from fivestage.executors.process.connection import WorkerLink
from fivestage.executors.process.supply import Patience, Supply

if TYPE_CHECKING:
    from collections.abc import Mapping

KILL_S: Final = 1.0
"""How long processes may take to end after they have been killed."""
POLL_S: Final = 0.005

log = structlog.get_logger("fivestage.executor")


class Spawner:
    """Makes the links to worker processes. Used from the bus loop.

    Args:
        config: What the fork server is to load, see ``ForkClient``.
        patience: How long it may take.
    """

    def __init__(self, config: Mapping[str, Any], *, patience: Patience | None = None) -> None:
        self._patience = patience or Patience()
        self._supply = Supply(config, self._patience)
        self._loop = asyncio.get_running_loop()
        self._links: set[WorkerLink] = set()
        """All, until they are gone."""
        self._last_worker_at = self._loop.time()
        """When one became ready, or one that was ready ended."""

    def __repr__(self) -> str:
        return f"<Spawner of {len(self._links)}, {self._supply}>"

    async def start(self) -> None:
        """Start the fork server and wait until it has loaded the app.

        Raises:
            InvalidAppError: there is no app where it should be.
            ConfigurationError: loading it failed, or takes too long.
            ExecutorError: there is no room for the process.
        """
        try:
            self._supply.launch()
        except OSError as error:
            raise ExecutorError(f"the fork server cannot be started: {error.strerror}") from error
        await asyncio.shield(self._supply.loaded)

    def take(self) -> WorkerLink:
        """A link whose process is requested. Never fails."""
        link = WorkerLink()
        link.on_hello, link.on_gone = self._on_hello, self._on_gone
        self._links.add(link)
        self._supply.request(link)
        return link

    @property
    def pid(self) -> int | None:
        """The fork server's number."""
        server = self._supply.server
        return None if server is None else server.pid

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the app's nodes, once it is loaded."""
        return self._supply.nodes

    @property
    def has_resources(self) -> bool:
        """Whether the app has resources, once it is loaded."""
        return self._supply.has_resources

    @property
    def trouble(self) -> str | None:
        """Why no worker can be made now; there may be some that go on."""
        return self._supply.trouble.why

    @property
    def failure(self) -> str | None:
        """Why there is no worker: the app cannot be loaded, or none could be made for ``give_up_s``."""
        loaded = self._supply.loaded
        if loaded.done() and (error := loaded.exception()) is not None:
            return str(error)
        give_up_s = self._patience.give_up_s + (self._patience.open_s if self.has_resources else 0.0)
        if any(link.greeted.is_set() for link in self._links):
            return None
        if self._loop.time() - self._last_worker_at < give_up_s:
            return None
        return f"there has been no worker process for {give_up_s:g} s: {self.trouble or 'none is ready'}"

    async def stop(self, timeout_s: float) -> None:
        """End all processes, by force if the fork server takes longer than *timeout_s*.

        Where it is cancelled, or *timeout_s* is 0, they are killed at once. No descriptor is left open.
        """
        try:
            self._supply.close(timeout_s)
            for link in tuple(self._links):
                link.kill()
            end = self._loop.time() + timeout_s + KILL_S
            while not self._all_ended() and self._loop.time() < end:  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
        finally:
            self._supply.close(0.0)
            for link in tuple(self._links):
                link.abandon()

    def _all_ended(self) -> bool:
        return self._supply.ended and not self._links

    def _on_hello(self) -> None:
        self._last_worker_at = self._loop.time()
        if self._supply.trouble.over():
            log.info("worker processes can be made again")

    def _on_gone(self, link: WorkerLink) -> None:
        """One whose process never was ready is trouble, as a failed fork is."""
        self._links.discard(link)
        if link.greeted.is_set():
            self._last_worker_at = self._loop.time()
        elif link.pid is not None:
            self._supply.pause("worker processes end before they are ready")
