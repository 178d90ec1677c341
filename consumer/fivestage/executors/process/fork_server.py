"""The zygote: imports the app once, then forks a worker whenever the bus asks for one.

It has no event loop and no threads, so a fork of it is a clean start that takes a millisecond or two whatever
the app imports, and a worker may be killed as lightly as that.

Each packet on its socket is one message. From the bus: what to load; then, for each worker, its socket,
shared memory and lifeline. To the bus: whether that was loaded; then, for each request in order, the worker's
number and a handle on it, or why it could not be forked; and how a worker ended.

Workers outlive it when it fails: the bus starts another one for those that it needs later.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import select
import signal
import socket
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog

from fivestage.errors import InvalidAppError
from fivestage.executors import interpreter
from fivestage.executors.process import child
from fivestage.executors.process.frames import MAX_PACKET_BYTES
from fivestage.executors.process.messages import plan_of
from fivestage.pipeline.loader import authors_traceback, load_app

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FAR_END: Final = 4
"""How many descriptors a worker gets: see ``WorkerLink.open``."""

log = structlog.get_logger("fivestage.executor")


def main() -> None:
    """Load what the bus says, then fork until it has gone. Never returns."""
    try:
        run()
    except BaseException as error:  # noqa: BLE001 - the interpreter would wait for threads of the app
        traceback.print_exception(error)
        os._exit(1)
    finally:
        child.end()


def run() -> None:
    """See ``main``; returns when the bus has gone, or when the app cannot be loaded."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    child.leave_signals_to_the_bus()
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
    # From Python 3.12 on every fork would warn, without a name; see _warn_of_threads.
    warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
    interpreter.share_the_interpreter()
    interpreter.freeze_gc()
    control.send(orjson.dumps({"nodes": list(part.app.nodes), "resources": bool(part.app.resources)}))
    ForkServer(control, part).serve()


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
    app = load_app(config["app"])
    return child.Part(app, plan, config["threads"], config["max_data_bytes"], config["open_s"])


def explained(error: BaseException) -> dict[str, str]:
    """What went wrong with the import: to the bus in one line, in full to standard error."""
    if isinstance(error, InvalidAppError):
        sys.stderr.write(authors_traceback(error))
        return {"invalid": str(error)}
    traceback.print_exception(error)
    text = f"{type(error).__name__}: {error}"[:512]
    return {"failed": text.encode("utf-8", "backslashreplace").decode()}


class ForkServer:
    """Forks, and buries."""

    def __init__(self, control: socket.socket, part: child.Part) -> None:
        self._control = control
        self._part = part
        self._children: dict[int, int] = {}
        """Their numbers by the handles on them."""
        self._warned = False
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def __repr__(self) -> str:
        return f"<ForkServer of {len(self._children)}>"

    def serve(self) -> None:
        """Do what the bus asks for until it has gone; then end all workers."""
        while True:
            for fileno, _ in self._poll.poll():
                if fileno in self._children:
                    self._bury(fileno)
                elif not self._answer():
                    self._end()

    def _answer(self) -> bool:
        """Fork a worker, or say why not; False when the bus has gone."""
        far_end: Sequence[int] = ()
        try:
            data, far_end, _, _ = socket.recv_fds(self._control, 64, FAR_END, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            data = b""
        if not data:
            return False
        self._warn_of_threads()
        try:
            pid, pidfd = self._fork(far_end)
        except OSError as error:
            self._tell({"cannot": error.strerror or type(error).__name__})
            return True
        finally:
            for fileno in far_end:
                os.close(fileno)
        self._children[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        self._tell({"pid": pid}, pidfd)
        return True

    def _fork(self, far_end: Sequence[int]) -> tuple[int, int]:
        """Fork a worker; its number, and a handle on it.

        Raises:
            OSError: the system, or this process, has no room for one more.
        """
        if len(far_end) < FAR_END:  # the kernel leaves out those that this process has no room for
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        pid = os.fork()
        if pid == 0:
            self._become_worker(far_end)
        try:
            return pid, os.pidfd_open(pid)  # before it is reaped, so the number is still its own
        except OSError:
            os.kill(pid, signal.SIGKILL)
            _reap(pid)
            raise

    def _warn_of_threads(self) -> None:
        """Warn once: a fork copies the calling thread alone, and the locks that others hold for ever."""
        if self._warned:
            return
        names = thread_names()
        if names:
            self._warned = True
            log.warning(
                "importing the app started threads; worker processes have none of them and may hang: import "
                "the library where it is used, or open it as a resource (@app.resource)",
                threads=len(names),
                names=sorted(set(names)),
            )

    def _become_worker(self, far_end: Sequence[int]) -> None:
        """In the child: never returns."""
        try:
            self._control.close()
            for pidfd in self._children:
                os.close(pidfd)
            child.main(self._part, *far_end)
        except BaseException as error:  # noqa: BLE001 - nothing may get into the zygote's loop
            traceback.print_exception(error)
        finally:
            os._exit(1)

    def _bury(self, pidfd: int) -> None:
        self._poll.unregister(pidfd)
        pid = self._children.pop(pidfd)
        os.close(pidfd)
        self._tell({"ended": pid, "status": os.waitstatus_to_exitcode(_reap(pid))})

    def _tell(self, told: Mapping[str, Any], *filenos: int) -> None:
        with contextlib.suppress(OSError):  # the bus has gone, as the next poll shows
            socket.send_fds(self._control, [orjson.dumps(told)], filenos)

    def _end(self) -> None:
        for pidfd in self._children:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        child.end()


def _reap(pid: int) -> int:
    """The status of a child that has ended, or is about to."""
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:  # the app has the system reap them (SIGCHLD is ignored)
        return 0


def thread_names() -> list[str]:
    """The names of this process's other threads, of Python or not; see ``/proc/PID/task``."""
    known = {str(thread.native_id): thread.name for thread in threading.enumerate()}
    try:
        tasks = [task for task in Path("/proc/self/task").iterdir() if task.name != str(os.getpid())]
        return [known.get(task.name) or (task / "comm").read_text().strip() for task in tasks]
    except OSError:  # one has just ended, or there are no descriptors: the next fork looks again
        return []
