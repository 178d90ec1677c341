"""Gets links their processes from a fork server, however often that takes.

A fork server that ends, hangs or writes nonsense is replaced; the workers that it has forked go on. While
none can be forked, because the system is short of memory, process numbers or descriptors, requests are
repeated after a pause.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog

from fivestage.errors import ConfigurationError, InvalidAppError
from fivestage.executors.process.backoff import Trouble
from fivestage.executors.process.fork_client import ForkClient, how

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fivestage.executors.process.connection import WorkerLink

RESTART_WINDOW_S: Final = 60.0
"""For so long the end of a fork server counts towards the pause after the next one's."""
RESTART_PAUSE_S: Final = 0.5
MAX_RESTART_PAUSE_S: Final = 10.0

log = structlog.get_logger("fivestage.executor")


class Patience(NamedTuple):
    """How long the bus waits for the fork server, in seconds."""

    load_s: float = 60.0
    """For the app to be imported."""
    open_s: float = 60.0
    """For its resources to be opened, in each worker."""
    answer_s: float = 3.0
    """For a worker to be forked: this takes milliseconds, or a second with tens of gigabytes in the app."""
    give_up_s: float = 30.0
    """For any worker at all, before that is a failure."""


class Supply:
    """Gives links their processes, in the order of the requests. Used from the bus loop.

    Args:
        config: What the fork server is to load, see ``ForkClient``.
        patience: How long it may take.
    """

    def __init__(self, config: Mapping[str, Any], patience: Patience) -> None:
        self._config = config
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._wanted: deque[WorkerLink] = deque()
        """Those that are to be requested."""
        self._asked: deque[WorkerLink] = deque()
        """Those that have been requested; the answers come in the same order."""
        self._serving = False
        """The fork server has loaded the app."""
        self._sending: asyncio.TimerHandle | None = None
        self._starting: asyncio.TimerHandle | None = None
        self._ends: deque[float] = deque()
        self._closed = False
        self.server: ForkClient | None = None
        """The present or last one."""
        self.loaded: asyncio.Future[None] = self._loop.create_future()
        """Done when the first fork server has loaded the app; its exception says why it cannot."""
        self.nodes: tuple[str, ...] = ()
        """The names of the app's nodes, once it is loaded."""
        self.has_resources = False
        """Whether the app has any, which workers then open before they are ready."""
        self.trouble = Trouble()
        """Why there are no new processes now."""

    def __repr__(self) -> str:
        return f"<Supply {len(self)} on their way, {self.trouble}>"

    def __len__(self) -> int:
        return len(self._wanted) + len(self._asked)

    def launch(self) -> None:
        """Start a fork server.

        Raises:
            OSError: there is no room for it.
        """
        self.server = ForkClient(self._config, self._hear, self._on_end)
        limit_s = self._patience.load_s
        self.server.limit(limit_s, f"importing {self._config['app']} takes more than {limit_s:.0f} s")

    def request(self, link: WorkerLink) -> None:
        """Give *link* a process as soon as possible, unless it is killed before."""
        self._wanted.append(link)
        if self._sending is None:
            self._send()

    def pause(self, why: str) -> None:
        """There is no room for a process now: go on with the requests in a while."""
        if self.trouble.add(why, self._loop.time()):
            log.warning(
                "no worker process can be made; trying again. Check memory, the limit of processes "
                "(ulimit -u, or the container's) and of open files (ulimit -n)",
                reason=why,
                attempts=self.trouble.count,
            )
        if self._sending is None and not self._closed:
            self._sending = self._loop.call_later(self.trouble.pause_s, self._send)

    def close(self, grace_s: float) -> None:
        """Grant no more requests, and end the fork server within *grace_s* seconds."""
        self._closed = True
        self._serving = False
        for timer in (self._sending, self._starting):
            if timer is not None:
                timer.cancel()
        if self.server is not None:
            self.server.hang_up(grace_s)

    @property
    def ended(self) -> bool:
        """No fork server runs."""
        return self.server is None or self.server.ended.is_set()

    # Requests

    def _send(self) -> None:
        self._sending = None
        while self._wanted and self._serving and self.server is not None:
            link = self._wanted.popleft()
            if link.gone:
                continue
            try:
                self.server.ask(link.open())
            except OSError as error:
                self._again(link)
                self.pause(f"a request cannot be sent: {error.strerror}")
                return
            link.handed_over()
            self._asked.append(link)
            if len(self._asked) == 1:
                self._expect_answer()

    def _again(self, link: WorkerLink) -> None:
        """Its process does not exist, or cannot be had."""
        if not link.gone:
            link.withdraw()
            self._wanted.appendleft(link)

    def _expect_answer(self) -> None:
        """Limit the time from the oldest request, or else from the last answer."""
        if self.server is not None and self._serving:
            self.server.lift()
            if self._asked:
                limit_s = self._patience.answer_s
                self.server.limit(limit_s, f"it did not answer a request within {limit_s:g} s")

    # Answers

    def _hear(self, message: Mapping[str, Any], handles: list[int]) -> None:
        if "pid" in message:
            self._on_fork(message["pid"], handles)
        elif "cannot" in message:
            self._again(self._asked.popleft())
            self._expect_answer()
            self.pause(f"a worker process cannot be forked: {message['cannot']}")
        elif "ended" in message:
            log.info("worker ended", pid=message["ended"], how=how(message["status"]))
        elif "invalid" in message:
            self._on_failed_load(InvalidAppError(message["invalid"]))
        elif "failed" in message:
            text = f"importing {self._config['app']} failed: {message['failed']}"
            self._on_failed_load(ConfigurationError(text))
        else:
            self.has_resources = message["resources"]
            self._on_load(tuple(message["nodes"]))

    def _on_fork(self, pid: int, handles: list[int]) -> None:
        link = self._asked.popleft()
        self._expect_answer()
        if link.gone:  # killed meanwhile
            return
        try:
            link.spawned(pid, handles[0])
        except (IndexError, OSError):  # no room for the handle, which the kernel then leaves out
            self._again(link)
            self.pause("a worker process cannot be watched: too many open files")
        else:
            handles.clear()

    def _on_load(self, nodes: tuple[str, ...]) -> None:
        self.nodes = nodes
        self._serving = True
        self._expect_answer()
        if not self.loaded.done():
            self.loaded.set_result(None)
        if not self:  # what the last one left undone has been given up since
            self.trouble.over()
        if self._sending is None:
            self._send()

    def _on_failed_load(self, error: Exception) -> None:
        """The first time it is the user's to mend; later the app was loaded before, and may be again."""
        if self.loaded.done() and self.server is not None:
            self.server.kill(str(error))
        else:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._closed = True
        if not self.loaded.done():
            self.loaded.set_exception(error)
            self.loaded.exception()  # the start may have been cancelled

    def _on_end(self, why: str) -> None:
        """The fork server has ended; what it was asked for, the next one is asked for."""
        self._serving = False
        while self._asked:
            self._again(self._asked.pop())
        if self._closed:
            return
        if not self.loaded.done():
            self._fail(ConfigurationError(f"importing {self._config['app']} failed: {why}"))
            return
        self._restart_soon(f"the fork server was replaced: {why}")

    def _restart_soon(self, why: str) -> None:
        """At once after a first end; those that follow soon after cost more and more time."""
        now = self._loop.time()
        self.trouble.add(why, now)
        self._ends.append(now)
        while self._ends[0] < now - RESTART_WINDOW_S:
            self._ends.popleft()
        again = len(self._ends) - 1
        pause_s = min(RESTART_PAUSE_S * 2.0 ** min(again - 1, 10), MAX_RESTART_PAUSE_S) if again else 0.0
        log.warning(
            "fork server replaced, its workers go on", reason=why, ends=len(self._ends), pause_s=pause_s
        )
        self._starting = self._loop.call_later(pause_s, self._restart)

    def _restart(self) -> None:
        try:
            self.launch()
        except OSError as error:
            self._restart_soon(f"the fork server cannot be started: {error.strerror}")
