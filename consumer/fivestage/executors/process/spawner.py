"""Starts worker processes for the executor, and ends all of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import structlog

from fivestage.errors import ExecutorError
from fivestage.executors.process.connection import WorkerLink
from fivestage.executors.process.fork_requests import ForkRequests, ForkTimeouts

if TYPE_CHECKING:
    from collections.abc import Mapping

KILL_S: Final = 1.0
"""Seconds that processes may take to end after they have been killed."""
POLL_S: Final = 0.005

log = structlog.get_logger("fivestage.executor")


class Spawner:
    """Makes the links to worker processes, and reports that no worker is ready. Used from the bus loop.

    Args:
        config: What the fork server loads, see ``ForkClient``.
        timeouts: How long to wait for the fork server and its workers.
    """

    def __init__(self, config: Mapping[str, Any], timeouts: ForkTimeouts) -> None:
        self._timeouts = timeouts
        self._requests = ForkRequests(config, timeouts)
        self._loop = asyncio.get_running_loop()
        self._links: set[WorkerLink] = set()
        """All links, until they are gone."""
        self._last_worker_at = self._loop.time()
        """When a worker last became ready, or a ready one ended; at first, the start."""

    def __repr__(self) -> str:
        return f"<Spawner of {len(self._links)}, {self._requests}>"

    async def start(self) -> None:
        """Start the fork server and wait until it has loaded the app.

        Raises:
            InvalidAppError: there is no app at the path, or importing it raised.
            ConfigurationError: the setup function raised, or the fork server ended or took too long.
            ExecutorError: there is no room for the fork server's process.
        """
        try:
            self._requests.launch()
        except OSError as error:
            raise ExecutorError(f"the fork server cannot be started: {error.strerror}") from error
        await asyncio.shield(self._requests.loaded)

    def take(self) -> WorkerLink:
        """Return a new link and request its process. Never fails."""
        link = WorkerLink()
        link.on_hello, link.on_gone = self._on_hello, self._on_gone
        self._links.add(link)
        self._requests.add(link)
        return link

    @property
    def has_resources(self) -> bool:
        """Whether the loaded app has resources."""
        return self._requests.has_resources

    @property
    def unready(self) -> str | None:
        """Why no worker can be started now; earlier ones may go on."""
        return self._requests.backoff.reason

    @property
    def failure(self) -> str | None:
        """Why there will be no worker: the app cannot be loaded, or none was ready for ``give_up_s``.

        With resources, also ``open_s`` must have passed. None while there may be a worker.
        """
        loaded = self._requests.loaded
        if loaded.done() and (error := loaded.exception()) is not None:
            return str(error)
        give_up_s = self._timeouts.give_up_s + (self._timeouts.open_s if self.has_resources else 0.0)
        if any(link.ready for link in self._links):
            return None
        if self._loop.time() - self._last_worker_at < give_up_s:
            return None
        return f"there has been no worker process for {give_up_s:g} s: {self.unready or 'none is ready'}"

    async def stop(self, timeout_s: float) -> None:
        """End all processes; kill the fork server if it takes longer than *timeout_s*.

        If this is cancelled, or *timeout_s* is 0, the fork server is killed at once. No descriptor is left
        open.
        """
        try:
            self._requests.close(timeout_s)
            for link in tuple(self._links):
                link.kill()
            end = self._loop.time() + timeout_s + KILL_S
            while (self._links or not self._requests.ended) and self._loop.time() < end:  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
        finally:
            self._requests.close(0.0)
            for link in tuple(self._links):
                link.release()

    def _on_hello(self) -> None:
        self._last_worker_at = self._loop.time()
        if self._requests.backoff.succeeded():
            log.info("worker processes can be made again")

    def _on_gone(self, link: WorkerLink) -> None:
        """Pause the requests if a process has ended before it was ready, as after a failed fork."""
        self._links.discard(link)
        if link.ready:
            self._last_worker_at = self._loop.time()
        elif link.pid is not None:
            self._requests.pause("worker processes end before they are ready")
