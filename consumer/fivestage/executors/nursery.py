"""The bus's end of the zygote: worker processes to be had at once.

A spare or more is made ahead, so that replacing a worker waits for nothing. A zygote that dies takes its
workers along; it is started again, unless that happens too often.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog

from fivestage.errors import ConfigurationError, InvalidAppError
from fivestage.executors.link import Link
from fivestage.executors.wire import MAX_PACKET_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

LOAD_TIMEOUT_S: Final = 60.0
MAX_RESTARTS: Final = 3
RESTART_WINDOW_S: Final = 60.0
SEND_AGAIN_S: Final = 0.005
POLL_S: Final = 0.005

log = structlog.get_logger("fivestage.executor")


_NOT_FOR_NODES: Final = "FIVESTAGE_KAFKA__"
"""Settings with the secrets of the connection: nodes have no use for them."""
_ZYGOTE: Final = "from fivestage.executors.zygote import main; main()"


class Nursery:
    """Makes the links to worker processes. Used from the bus loop.

    Args:
        config: What the zygote is told, see there; ``path`` and ``bus`` are added.
        spares: How many processes are kept ready.
        load_timeout_s: How long importing the app may take.
    """

    def __init__(
        self, config: Mapping[str, Any], *, spares: int = 1, load_timeout_s: float = LOAD_TIMEOUT_S
    ) -> None:
        self._config = config
        self._size = spares
        self._load_timeout_s = load_timeout_s
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._loaded: asyncio.Future[None] = self._loop.create_future()
        self._spares: deque[Link] = deque()
        self._wanted: deque[Link] = deque()
        """Those that the zygote has not been asked for yet."""
        self._asked: deque[Link] = deque()
        """Those that it has not answered yet; it answers in order."""
        self._sending: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deaths: deque[float] = deque()
        self._stopping = False
        self.failure: str | None = None
        """Why there will be no more workers."""
        self.nodes: tuple[str, ...] = ()
        """The names of the app's nodes, once it is loaded."""

    def __repr__(self) -> str:
        return f"<Nursery {len(self._spares)} spare, {len(self._wanted) + len(self._asked)} on their way>"

    async def start(self) -> None:
        """Start the zygote and wait until it has loaded the app.

        Raises:
            InvalidAppError: there is no app where it should be.
            ConfigurationError: loading it failed, or takes more than *load_timeout_s*.
        """
        self._launch()
        self._refill()
        await asyncio.shield(self._loaded)

    def take(self) -> Link:
        """A link whose process is there, or else on its way."""
        links = [self._spares.popleft() for _ in range(len(self._spares))]
        ready = [link for link in links if not link.gone]
        link = ready.pop(0) if ready else self._order()
        self._spares.extend(ready)
        self._refill()
        return link

    @property
    def pid(self) -> int | None:
        """The zygote's number."""
        return None if self._process is None else self._process.pid

    async def stop(self, timeout_s: float) -> None:
        """End the zygote, and with it all workers, by force if it takes too long."""
        self._stopping = True
        self._hang_up()
        process, end = self._process, self._loop.time() + timeout_s
        while process is not None and process.poll() is None:
            if self._loop.time() > end:
                process.kill()
                process.wait()
            await asyncio.sleep(POLL_S)
        for link in (*self._spares, *self._wanted, *self._asked):
            link.kill()
        while not all(link.gone for link in self._spares) and self._loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)

    # Asking

    def _refill(self) -> None:
        while len(self._spares) < self._size:
            self._spares.append(self._order())

    def _order(self) -> Link:
        link = Link()
        self._wanted.append(link)
        self._send()
        return link

    def _send(self) -> None:
        """Ask for what is wanted, once the app is loaded."""
        self._sending = None
        loaded = self._loaded.done() and not self._loaded.cancelled() and self._loaded.exception() is None
        while self._wanted and loaded and self._control is not None:
            link = self._wanted[0]
            if link.gone:
                self._wanted.popleft()
                continue
            try:
                socket.send_fds(self._control, [b"fork"], link.far_end)
            except BlockingIOError:
                self._sending = self._loop.call_later(SEND_AGAIN_S, self._send)
                return
            except OSError:  # it has died, which is read as such
                return
            self._asked.append(self._wanted.popleft())
            link.handed_over()

    # Listening

    def _launch(self) -> None:
        """Start a zygote and tell it what to load; it answers when it has."""
        self._control, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        with far:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and our own module
                [sys.executable, "-c", _ZYGOTE, str(far.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(far.fileno(),),
                env={
                    name: value for name, value in os.environ.items() if not name.startswith(_NOT_FOR_NODES)
                },
            )
        config = {**self._config, "path": sys.path, "bus": os.getpid()}
        self._control.send(orjson.dumps(config))
        self._loop.add_reader(self._control, self._listen)
        self._timer = self._loop.call_later(self._load_timeout_s, self._took_too_long)

    def _listen(self) -> None:
        assert self._control is not None  # noqa: S101 - it has just become readable
        try:
            flags = socket.MSG_CMSG_CLOEXEC
            packet, handles, _, _ = socket.recv_fds(self._control, MAX_PACKET_BYTES, 1, flags)
        except BlockingIOError:
            return
        except OSError:
            packet, handles = b"", []
        if packet:
            self._hear(orjson.loads(packet), handles)
        else:
            self._on_death()

    def _hear(self, told: Mapping[str, Any], handles: list[int]) -> None:
        if "pid" in told:
            self._asked.popleft().spawned(told["pid"], handles[0])
        elif "ended" in told:
            log.info("worker ended", pid=told["ended"], **_how(told["status"]))
        elif "invalid" in told:
            self._not_loaded(InvalidAppError(told["invalid"]))
        elif "failed" in told:
            text = f"importing {self._config['app']} failed: {told['failed']}"
            self._not_loaded(ConfigurationError(text))
        else:
            self._on_load(tuple(told["nodes"]))

    def _on_load(self, nodes: tuple[str, ...]) -> None:
        self.nodes = nodes
        self._stop_timer()
        if not self._loaded.done():
            self._loaded.set_result(None)
        self._send()

    def _not_loaded(self, error: Exception) -> None:
        self._stop_timer()
        self._stopping = True
        self.failure = str(error)
        if not self._loaded.done():
            self._loaded.set_exception(error)
            self._loaded.exception()  # whoever starts it may have given up

    def _took_too_long(self) -> None:
        text = f"importing {self._config['app']} takes more than {self._load_timeout_s:.0f} s"
        self._not_loaded(ConfigurationError(text))
        if self._process is not None:
            self._process.kill()

    def _on_death(self) -> None:
        """The zygote has ended; its workers end with it."""
        self._hang_up()
        while self._asked:
            self._asked.popleft().lost()
        if self._stopping or self._process is None:
            return
        status = self._process.wait()  # it has closed its socket, so this takes no time
        how = " ".join(f"{key} {value}" for key, value in _how(status).items())
        if not self._loaded.done() and not self._deaths:
            text = f"the process that imports {self._config['app']} ended with {how}"
            self._not_loaded(ConfigurationError(text))
            return
        self._begin_again(how)

    def _begin_again(self, how: str) -> None:
        now = time.monotonic()
        self._deaths.append(now)
        while self._deaths[0] < now - RESTART_WINDOW_S:
            self._deaths.popleft()
        if len(self._deaths) > MAX_RESTARTS:
            self.failure = f"the zygote has ended {len(self._deaths)} times in a minute, lastly with {how}"
            log.error("zygote ended for good", how=how)
            return
        log.warning("zygote ended, starting another", how=how)
        self._loaded = self._loop.create_future()
        self._launch()

    def _hang_up(self) -> None:
        self._stop_timer()
        if self._sending is not None:
            self._sending.cancel()
        if self._control is not None:
            self._loop.remove_reader(self._control)
            self._control.close()
            self._control = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _how(status: int) -> dict[str, int]:
    return {"signal": -status} if status < 0 else {"exit_code": status}
