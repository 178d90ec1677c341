"""The zygote: imports the app once, then forks a worker whenever the bus asks for one.

It has no event loop and no threads, so a fork of it is a clean start that takes a millisecond or two whatever
the app imports, and a worker may be killed as lightly as that.

Each packet on its socket is one message. From the bus: what to load; then, for each worker, its socket and
shared memory. To the bus: whether that was loaded; then, for each worker, its number and a handle on it; and
how a worker ended.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog

from fivestage import tuning
from fivestage.apps import authors_traceback, load_app
from fivestage.errors import InvalidAppError
from fivestage.executors import child
from fivestage.executors.messages import plan_of
from fivestage.executors.wire import MAX_PACKET_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FORK_ATTEMPTS: Final = 20
FORK_AGAIN_S: Final = 0.05

log = structlog.get_logger("fivestage.executor")


def main() -> None:
    """Load what the bus says, then fork until it has gone."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the bus decides
    packet = control.recv(MAX_PACKET_BYTES)
    if not packet:  # the bus has gone already
        return
    config = orjson.loads(packet)
    child.bind_to(config["bus"])
    try:
        part = load(config)
    except BaseException as error:  # noqa: BLE001 - a module may raise anything, SystemExit for instance
        control.send(orjson.dumps(explained(error)))
        return
    if threading.active_count() > 1:
        log.warning("the app starts threads when it is imported: workers do not have them")
    tuning.share_the_interpreter()
    tuning.spare_what_is_there()
    control.send(orjson.dumps({"nodes": list(part.app.nodes)}))
    Zygote(control, part).serve()


def load(config: Mapping[str, Any]) -> child.Part:
    """Import the app, in the surroundings that the bus has.

    Raises:
        BaseException: whatever the app's module raises.
    """
    sys.path[:] = config["path"]
    if config["setup"]:
        name, *arguments = config["setup"]
        module, _, function = name.partition(":")
        getattr(importlib.import_module(module), function)(*arguments)
    plan = plan_of(config["plan"])
    return child.Part(load_app(config["app"]), plan, config["threads"], config["max_data_bytes"])


def explained(error: BaseException) -> dict[str, str]:
    """What went wrong with the import: to the bus in one line, in full to standard error."""
    if isinstance(error, InvalidAppError):
        sys.stderr.write(authors_traceback(error))
        return {"invalid": str(error)}
    traceback.print_exception(error)
    text = f"{type(error).__name__}: {error}"[:512]
    return {"failed": text.encode("utf-8", "backslashreplace").decode()}


class Zygote:
    """Forks, and buries."""

    def __init__(self, control: socket.socket, part: child.Part) -> None:
        self._control = control
        self._part = part
        self._children: dict[int, int] = {}
        """Their numbers by the handles on them."""
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def __repr__(self) -> str:
        return f"<Zygote of {len(self._children)}>"

    def serve(self) -> None:
        """Do what the bus asks for until it has gone; then end all workers."""
        while True:
            for fileno, _ in self._poll.poll():
                if fileno in self._children:
                    self._bury(fileno)
                elif not self._answer():
                    self._end()

    def _answer(self) -> bool:
        """Fork a worker; False when the bus has gone."""
        try:
            data, far_end, _, _ = socket.recv_fds(self._control, 64, 2, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            data = b""
        if not data:
            return False
        parent, pid = os.getpid(), _fork()
        if pid == 0:
            self._become_worker(far_end, parent)
        pidfd = os.pidfd_open(pid)  # before it is buried, so the number is still its own
        self._children[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        for fileno in far_end:
            os.close(fileno)
        self._tell({"pid": pid}, pidfd)
        return True

    def _become_worker(self, far_end: Sequence[int], parent: int) -> None:
        """In the child: never returns."""
        try:
            self._control.close()
            for pidfd in self._children:
                os.close(pidfd)
            fileno, memory = far_end
            child.main(self._part, fileno, memory, parent)
        except BaseException as error:  # noqa: BLE001 - nothing may get into the zygote's loop
            traceback.print_exception(error)
        finally:
            os._exit(1)

    def _bury(self, pidfd: int) -> None:
        self._poll.unregister(pidfd)
        pid, status = os.waitpid(self._children.pop(pidfd), 0)
        os.close(pidfd)
        self._tell({"ended": pid, "status": os.waitstatus_to_exitcode(status)})

    def _tell(self, told: Mapping[str, int], *filenos: int) -> None:
        with contextlib.suppress(OSError):  # the bus has gone, as the next poll shows
            socket.send_fds(self._control, [orjson.dumps(told)], filenos)

    def _end(self) -> None:
        for pidfd in self._children:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        child.end()


def _fork() -> int:
    """Fork; tried again for a while where the system has no room for one more process.

    Raises:
        OSError: it still has none.
    """
    for _ in range(FORK_ATTEMPTS):
        with contextlib.suppress(BlockingIOError):
            return os.fork()
        time.sleep(FORK_AGAIN_S)
    return os.fork()
