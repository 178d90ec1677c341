"""Requests worker processes from a fork server, until each request is fulfilled.

A fork server that ends, hangs or sends invalid data is replaced; the workers that it has forked go on. While
no worker can be forked, because the system is short of memory, process ids or descriptors, requests are
repeated after a pause.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog

from fivestage.core.backoff import backoff_s
from fivestage.errors import ConfigurationError, InvalidAppError
from fivestage.executors.process.backoff import Backoff
from fivestage.executors.process.fork_client import ForkClient, exit_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fivestage.executors.process.connection import WorkerLink

RESTART_WINDOW_S: Final = 60.0
"""Seconds for which the end of a fork server lengthens the pause before the next restart."""
RESTART_PAUSE_S: Final = 0.5
MAX_RESTART_PAUSE_S: Final = 10.0

log = structlog.get_logger("fivestage.executor")


class ForkTimeouts(NamedTuple):
    """How long the main process waits for the fork server and its workers, in seconds."""

    load_s: float = 60.0
    """Seconds for importing the app."""
    open_s: float = 60.0
    """Seconds for opening the app's resources, in each worker."""
    answer_s: float = 3.0
    """Seconds for forking a worker: it takes milliseconds, or a second with tens of gigabytes in the app."""
    give_up_s: float = 30.0
    """Seconds without any ready worker after which the executor has failed."""


class ForkRequests:
    """Gives links their processes, in the order of the requests. Used from the bus loop.

    Args:
        config: What the fork server loads, see ``ForkClient``.
        timeouts: How long to wait for the fork server.
    """

    def __init__(self, config: Mapping[str, Any], timeouts: ForkTimeouts) -> None:
        self._config = config
        self._timeouts = timeouts
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[WorkerLink] = deque()
        """The links whose requests have not been sent."""
        self._sent: deque[WorkerLink] = deque()
        """The links whose requests have been sent; the answers come in the same order."""
        self._serving = False
        """The fork server has loaded the app."""
        self._send_timer: asyncio.TimerHandle | None = None
        self._restart_timer: asyncio.TimerHandle | None = None
        self._ends: deque[float] = deque()
        """When fork servers have ended in the last RESTART_WINDOW_S."""
        self._closed = False
        self.server: ForkClient | None = None
        """The current or last fork server."""
        self.loaded: asyncio.Future[None] = self._loop.create_future()
        """Done when the first fork server has loaded the app; an exception says why it cannot be loaded."""
        self.has_resources = False
        """Whether the loaded app has resources, which workers open before they are ready."""
        self.backoff = Backoff()
        """Counts failed attempts to get a process."""

    def __repr__(self) -> str:
        return f"<ForkRequests {len(self)} open, {self.backoff}>"

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sent)

    def launch(self) -> None:
        """Start a fork server.

        Raises:
            OSError: there is no room for another process.
        """
        self.server = ForkClient(self._config, self._on_message, self._on_end)
        limit_s = self._timeouts.load_s
        self.server.limit(limit_s, f"importing {self._config['app']} takes more than {limit_s:.0f} s")

    def add(self, link: WorkerLink) -> None:
        """Request a process for *link*, unless the link is killed before."""
        self._waiting.append(link)
        if self._send_timer is None:
            self._send()

    def pause(self, why: str) -> None:
        """Go on with the requests after a pause: no process can be made now, because of *why*."""
        if self.backoff.failed(why, self._loop.time()):
            log.warning(
                "no worker process can be made",
                reason=why,
                advice="check memory, the limit of processes (ulimit -u, or the container's) and that of "
                "open files (ulimit -n)",
                attempts=self.backoff.failures,
            )
        if self._send_timer is None and not self._closed:
            self._send_timer = self._loop.call_later(self.backoff.pause_s, self._send)

    def close(self, grace_s: float) -> None:
        """Stop requesting processes, and end the fork server within *grace_s* seconds."""
        self._closed = True
        self._serving = False
        for timer in (self._send_timer, self._restart_timer):
            if timer is not None:
                timer.cancel()
        if self.server is not None:
            self.server.hang_up(grace_s)

    @property
    def ended(self) -> bool:
        """Whether no fork server runs."""
        return self.server is None or self.server.ended

    # Requests

    def _send(self) -> None:
        self._send_timer = None
        while self._waiting and self._serving and self.server is not None:
            link = self._waiting.popleft()
            if link.gone:
                continue
            try:
                self.server.request_worker(link.open())
            except OSError as error:
                self._repeat(link)
                self.pause(f"a request cannot be sent: {error.strerror}")
                return
            link.close_child_ends()
            self._sent.append(link)
            if len(self._sent) == 1:
                self._expect_answer()

    def _repeat(self, link: WorkerLink) -> None:
        """Request a process again for a link whose process was not made or cannot be used."""
        if not link.gone:
            link.reset()
            self._waiting.appendleft(link)

    def _expect_answer(self) -> None:
        """Limit the time until the next answer."""
        if self.server is not None and self._serving:
            self.server.lift_limit()
            if self._sent:
                limit_s = self._timeouts.answer_s
                self.server.limit(limit_s, f"it did not answer a request within {limit_s:g} s")

    # Messages of the fork server

    def _on_message(self, message: Mapping[str, Any], handles: list[int]) -> None:
        if "pid" in message:
            self._on_fork(message["pid"], handles)
        elif "cannot" in message:
            self._repeat(self._sent.popleft())
            self._expect_answer()
            self.pause(f"a worker process cannot be forked: {message['cannot']}")
        elif "ended" in message:
            log.info("worker ended", pid=message["ended"], how=exit_text(message["status"]))
        elif "invalid" in message:
            self._on_failed_load(InvalidAppError(message["invalid"]))
        elif "settings" in message:
            self._on_failed_load(ConfigurationError(message["settings"]))
        elif "failed" in message:
            text = f"importing {self._config['app']} failed: {message['failed']}"
            self._on_failed_load(ConfigurationError(text))
        else:
            self.has_resources = message["resources"]
            self._on_load()

    def _on_fork(self, pid: int, handles: list[int]) -> None:
        link = self._sent.popleft()
        self._expect_answer()
        if link.gone:  # killed meanwhile
            return
        try:
            link.spawned(pid, handles[0])
        except (IndexError, OSError):  # there is no room for the handle, and then the kernel omits it
            self._repeat(link)
            self.pause("a worker process cannot be watched: too many open files")
        else:
            handles.clear()

    def _on_load(self) -> None:
        self._serving = True
        self._expect_answer()
        if not self.loaded.done():
            self.loaded.set_result(None)
        if not self:  # the requests that the last server left open have been given up since
            self.backoff.succeeded()
        if self._send_timer is None:
            self._send()

    def _on_failed_load(self, error: Exception) -> None:
        """Fail, at the start; later restart the fork server, as the app could be loaded before."""
        if self.loaded.done() and self.server is not None:
            self.server.kill(str(error))
        else:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._closed = True
        if not self.loaded.done():
            self.loaded.set_exception(error)
            self.loaded.exception()  # retrieved: the start may have been cancelled

    def _on_end(self, why: str) -> None:
        """Restart the fork server, which has ended; the next one gets the open requests."""
        self._serving = False
        while self._sent:
            self._repeat(self._sent.pop())
        if self._closed:
            return
        if not self.loaded.done():
            self._fail(ConfigurationError(f"importing {self._config['app']} failed: {why}"))
            return
        self._restart_soon(f"the fork server was replaced: {why}")

    def _restart_soon(self, why: str) -> None:
        """Restart the fork server: at once if none ended in RESTART_WINDOW_S, else after a growing pause."""
        now = self._loop.time()
        self.backoff.failed(why, now)
        self._ends.append(now)
        while self._ends[0] < now - RESTART_WINDOW_S:
            self._ends.popleft()
        again = len(self._ends) - 1
        pause_s = backoff_s(again - 1, first_s=RESTART_PAUSE_S, max_s=MAX_RESTART_PAUSE_S) if again else 0.0
        log.warning("fork server replaced", reason=why, ends=len(self._ends), pause_s=pause_s)
        self._restart_timer = self._loop.call_later(pause_s, self._restart)

    def _restart(self) -> None:
        try:
            self.launch()
        except OSError as error:
            self._restart_soon(f"the fork server cannot be started: {error.strerror}")
