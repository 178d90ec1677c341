"""The bus's end of one fork server process; nothing here waits for the process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from math import inf
from typing import TYPE_CHECKING, Any, Final

import orjson

from fivestage.executors.process.frames import MAX_PACKET_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

POLL_S: Final = 0.01
END_S: Final = 1.0
"""How long it may take to end after it has closed its socket."""
LOOKS: Final = 4
"""A limit is counted in so many looks: time in which the bus itself did not run counts for one at most."""

_NOT_FOR_NODES: Final = "FIVESTAGE_KAFKA__"
"""Settings with the secrets of the connection: nodes have no use for them."""
_PROGRAM: Final = "from fivestage.executors.process.fork_server import main; main()"


class ForkClient:
    """Starts the process, limits its time, and reaps it. Used from the bus loop.

    Args:
        config: What it is to load, see ``fork_server``; ``path`` and ``bus`` are added.
        hear: Called with each of its messages and the descriptors that came along; those left in the list
            are closed. A ValueError, TypeError or LookupError means that the message is nonsense.
        on_end: Called once with the reason, when it has been reaped.

    Raises:
        OSError: the system, or this process, has no room for one more.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        hear: Callable[[Mapping[str, Any], list[int]], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._hear = hear
        self._on_end = on_end
        self._timer: asyncio.TimerHandle | None = None
        self._why: str | None = None
        self._kill_at: float | None = None
        """When to kill it, once it is to end."""
        self.ended = asyncio.Event()
        """The process has been reaped."""
        self._control, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._control.setblocking(False)
            self._loop.add_reader(self._control, self._listen)
            with far:
                self._process = _start(far.fileno())
        except BaseException:
            self._loop.remove_reader(self._control)
            self._control.close()
            far.close()
            raise
        with contextlib.suppress(ConnectionError):  # it has ended already, which is read as such
            self._control.send(orjson.dumps({**config, "path": sys.path, "bus": os.getpid()}))

    def __repr__(self) -> str:
        return f"<ForkServer pid={self.pid} {'ended' if self.ended.is_set() else 'runs'}>"

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def ask(self, far_end: Sequence[int]) -> None:
        """Request a worker that gets *far_end*, see ``WorkerLink.open``.

        Raises:
            OSError: the request cannot be sent now.
        """
        socket.send_fds(self._control, [b"fork"], far_end)

    def limit(self, limit_s: float, why: str) -> None:
        """Kill it for the reason *why* unless this, or ``lift``, is called again within *limit_s* seconds."""
        self.lift()
        self._timer = self._loop.call_later(limit_s / LOOKS, self._look, 1, limit_s, why)

    def lift(self) -> None:
        """Take back the limit."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def kill(self, why: str) -> None:
        """End it at once, also when it is stopped."""
        self._why = self._why or why
        self.hang_up(0.0)

    def hang_up(self, grace_s: float) -> None:
        """Close the connection, upon which it ends; kill it when it has not after *grace_s* seconds."""
        if grace_s <= 0:  # now: the loop may not turn again
            self._process.kill()
        begins = self._kill_at is None
        self._kill_at = min(self._loop.time() + grace_s, inf if self._kill_at is None else self._kill_at)
        if begins:
            self.lift()
            self._loop.remove_reader(self._control)
            self._control.close()
            self._reap()

    def _look(self, looks: int, limit_s: float, why: str) -> None:
        if looks >= LOOKS:
            self.kill(why)
        else:
            self._timer = self._loop.call_later(limit_s / LOOKS, self._look, looks + 1, limit_s, why)

    def _reap(self) -> None:
        if self._kill_at is not None and self._loop.time() >= self._kill_at:
            self._process.kill()
        status = self._process.poll()
        if status is None:
            self._loop.call_later(POLL_S, self._reap)
            return
        self.ended.set()
        self._on_end(self._why or f"its process ended with {how(status)}")

    def _listen(self) -> None:
        handles: list[int] = []
        try:
            flags = socket.MSG_CMSG_CLOEXEC
            packet, handles, _, _ = socket.recv_fds(self._control, MAX_PACKET_BYTES, 1, flags)
            if packet:
                self._hear(orjson.loads(packet), handles)
            else:
                self.hang_up(END_S)
        except BlockingIOError:
            return
        except OSError:
            self.hang_up(END_S)
        except (ValueError, TypeError, LookupError) as error:  # the app's code has the same sockets
            self.kill(f"its socket holds nonsense ({type(error).__name__})")
        finally:
            for handle in handles:
                os.close(handle)


def _start(control: int) -> subprocess.Popen[bytes]:
    names = (name for name in os.environ if not name.startswith(_NOT_FOR_NODES))
    return subprocess.Popen(  # noqa: S603 - this interpreter, and our own module
        [sys.executable, "-c", _PROGRAM, str(control)],
        stdin=subprocess.DEVNULL,
        pass_fds=(control,),
        env={name: os.environ[name] for name in names},
    )


def how(status: int) -> str:
    """How a process ended, in words."""
    return f"signal {-status}" if status < 0 else f"exit_code {status}"
