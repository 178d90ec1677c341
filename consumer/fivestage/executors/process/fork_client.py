"""Starts one fork server process and exchanges messages with it, without ever blocking the bus loop."""

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
"""Seconds that the process may take to end after it has closed its socket."""
LIMIT_STEPS: Final = 4
"""Steps in which a limit is counted down: time in which the bus loop did not run is one step at most."""

_NOT_FOR_NODES: Final = "FIVESTAGE_KAFKA__"
"""The prefix of environment variables that may hold secrets of the connection, which nodes do not need."""
_PROGRAM: Final = "from fivestage.executors.process.fork_server import main; main()"


class ForkClient:
    """Starts a fork server, limits its time to answer, and reaps it. Used from the bus loop.

    Args:
        config: What the fork server loads, see ``fork_server``; ``path`` and ``bus`` are added.
        on_message: Called with each message of the fork server and a list of the descriptors that came with
            it; descriptors left in the list are closed. May raise ValueError, TypeError or LookupError if the
            message is invalid.
        on_end: Called once with the reason, when the process has been reaped.

    Raises:
        OSError: the system, or this process, has no room for another process.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        on_message: Callable[[Mapping[str, Any], list[int]], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._on_end = on_end
        self._timer: asyncio.TimerHandle | None = None
        self._why: str | None = None
        self._kill_at = inf
        """When to kill the process; infinite while it may run."""
        self.ended = False
        """The process has been reaped."""
        self._control, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._control.setblocking(False)
            self._loop.add_reader(self._control, self._receive)
            with child_end:
                self._process = _start(child_end.fileno())
        except BaseException:
            self._loop.remove_reader(self._control)
            self._control.close()
            child_end.close()
            raise
        with contextlib.suppress(ConnectionError):  # the process has ended already, as reading shows
            self._control.send(orjson.dumps({**config, "path": sys.path, "bus": os.getpid()}))

    def __repr__(self) -> str:
        return f"<ForkClient pid={self.pid} {'ended' if self.ended else 'runs'}>"

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def request_worker(self, filenos: Sequence[int]) -> None:
        """Request a worker that gets the descriptors *filenos*, see ``WorkerLink.open``.

        Raises:
            OSError: the request cannot be sent now.
        """
        socket.send_fds(self._control, [b"fork"], filenos)

    def limit(self, limit_s: float, why: str, steps: int = LIMIT_STEPS) -> None:
        """Kill the process in *limit_s* seconds, because of *why*. This replaces an earlier limit."""
        self.lift_limit()
        if not steps:
            self.kill(why)
        else:
            self._timer = self._loop.call_later(limit_s / LIMIT_STEPS, self.limit, limit_s, why, steps - 1)

    def lift_limit(self) -> None:
        """Remove the limit."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def kill(self, why: str) -> None:
        """Kill the process at once, even if it is stopped (SIGSTOP)."""
        self._why = self._why or why
        self.hang_up(0.0)

    def hang_up(self, grace_s: float) -> None:
        """Close the connection, which ends the process; kill it if it still runs after *grace_s* seconds."""
        if grace_s <= 0:  # now, because the loop may not run again
            self._process.kill()
        first = self._kill_at == inf
        self._kill_at = min(self._loop.time() + grace_s, self._kill_at)
        if first:
            self.lift_limit()
            self._loop.remove_reader(self._control)
            self._control.close()
            self._reap()

    def _reap(self) -> None:
        if self._loop.time() >= self._kill_at:
            self._process.kill()
        status = self._process.poll()
        if status is None:
            self._loop.call_later(POLL_S, self._reap)
            return
        self.ended = True
        self._on_end(self._why or f"its process ended with {exit_text(status)}")

    def _receive(self) -> None:
        handles: list[int] = []
        try:
            flags = socket.MSG_CMSG_CLOEXEC
            packet, handles, _, _ = socket.recv_fds(self._control, MAX_PACKET_BYTES, 1, flags)
            if packet:
                self._on_message(orjson.loads(packet), handles)
            else:
                self.hang_up(END_S)
        except BlockingIOError:
            return
        except OSError:
            self.hang_up(END_S)
        except (ValueError, TypeError, LookupError) as error:  # the app's code can write to the same socket
            self.kill(f"its socket holds invalid data ({type(error).__name__})")
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


def exit_text(status: int) -> str:
    """How a process ended: by a signal, or with an exit code."""
    return f"signal {-status}" if status < 0 else f"exit_code {status}"
