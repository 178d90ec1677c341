"""The main program of the fork server: imports the app once, then forks a worker for each request.

The fork server has no event loop and starts no threads, so forking is safe and takes a millisecond or two
whatever the app imports. That makes it cheap to replace a killed worker.

Each packet on its socket is one message. From the main process: what to load; then, for each worker, the
worker's descriptors (see ``WorkerLink.open``). To the main process: whether the app was loaded; then, for
each request in order, the worker's process id and a handle, or why it could not be forked; and how each
worker ended.

Workers outlive the fork server: if it fails, the main process starts another one for later requests.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
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

from fivestage.errors import ConfigurationError, InvalidAppError
from fivestage.executors import interpreter
from fivestage.executors.process import child, lifetime
from fivestage.executors.process.frames import MAX_PACKET_BYTES
from fivestage.executors.process.messages import decode_plan
from fivestage.pipeline.loader import authors_traceback, load_app
from fivestage.pipeline.node_settings import NodeSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WORKER_DESCRIPTORS: Final = 4
"""Descriptors that each worker gets, see ``WorkerLink.open``."""

log = structlog.get_logger("fivestage.executor")


def main() -> None:
    """Load the app, then fork workers until the main process ends. Never returns."""
    try:
        run()
    except BaseException as error:  # noqa: BLE001 - the interpreter would wait for threads of the app
        sys.excepthook(type(error), error, error.__traceback__)
        os._exit(1)
    finally:
        lifetime.end()


def run() -> None:
    """See ``main``; returns only if the main process has ended before, or if the app cannot be loaded."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    lifetime.ignore_group_signals()
    packet = control.recv(MAX_PACKET_BYTES)
    if not packet:  # the main process has ended already
        return
    config = orjson.loads(packet)
    lifetime.die_with_parent(config["bus"])
    try:
        worker_config = load(config)
    except BaseException as error:  # noqa: BLE001 - a module may raise anything, SystemExit for instance
        control.send(orjson.dumps(describe(error)))
        return
    # From Python 3.12 on, every fork would warn, without the threads' names; see _warn_of_threads.
    warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
    interpreter.share_the_interpreter()
    interpreter.freeze_gc()
    control.send(orjson.dumps({"resources": bool(worker_config.app.resources)}))
    ForkServer(control, worker_config).serve()


def load(config: Mapping[str, Any]) -> child.WorkerConfig:
    """Import the app, with the main process's module search path; call the setup function before and after.

    Raises:
        InvalidAppError: see ``load_app``.
        ConfigurationError: the settings of the nodes do not fit their models.
        BaseException: whatever the setup function raises.
    """
    sys.path[:] = config["path"]
    plan = decode_plan(config["plan"])
    _call(config["setup"])
    on_start = _call(config["worker_setup"])
    app = load_app(config["app"])
    _call(config["setup"])  # the app may have configured the log, for instance
    limits = config["threads"], config["max_data_bytes"], config["open_s"]
    nodes = NodeSettings.of(app, json.loads(config["nodes"]))
    return child.WorkerConfig(app, plan, *limits, nodes, config["deadline_header"], on_start)


def _call(setup: Sequence[str]) -> Any:
    """Call a function by its name, ``MODULE:FUNCTION``, with the arguments that follow; None for no name."""
    if not setup:
        return None
    name, *arguments = setup
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)(*arguments)


def describe(error: BaseException) -> dict[str, str]:
    """Describe a failed load in one line for the main process, and log the traceback."""
    if isinstance(error, InvalidAppError):
        if text := authors_traceback(error):
            log.error("app cannot be imported", traceback=text)
        return {"invalid": str(error)}
    if isinstance(error, ConfigurationError):
        return {"settings": str(error)}
    log.error("app cannot be imported", traceback="".join(traceback.format_exception(error)))
    text = f"{type(error).__name__}: {error}"[:512]
    return {"failed": text.encode("utf-8", "backslashreplace").decode()}


class ForkServer:
    """Forks and reaps workers."""

    def __init__(self, control: socket.socket, config: child.WorkerConfig) -> None:
        self._control = control
        self._config = config
        self._children: dict[int, int] = {}
        """The process ids of the workers, by their pidfds."""
        self._warned = False
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def __repr__(self) -> str:
        return f"<ForkServer of {len(self._children)}>"

    def serve(self) -> None:
        """Fork and reap workers until the main process ends; then kill all workers, and end."""
        while True:
            for fileno, _ in self._poll.poll():
                if fileno in self._children:
                    self._on_death(fileno)
                elif not self._answer():
                    self._end()

    def _answer(self) -> bool:
        """Handle one request: fork a worker, or answer why not. False if the main process has ended."""
        filenos: Sequence[int] = ()
        try:
            data, filenos, _, _ = socket.recv_fds(
                self._control, 64, WORKER_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            data = b""
        if not data:
            return False
        self._warn_of_threads()
        try:
            pid, pidfd = self._fork(filenos)
        except OSError as error:
            self._send({"cannot": error.strerror or type(error).__name__})
            return True
        finally:
            for fileno in filenos:
                os.close(fileno)
        self._children[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        self._send({"pid": pid}, pidfd)
        return True

    def _fork(self, filenos: Sequence[int]) -> tuple[int, int]:
        """Fork a worker; return its process id and a pidfd.

        Raises:
            OSError: the system, or this process, has no room for another worker.
        """
        if len(filenos) < WORKER_DESCRIPTORS:  # the kernel omits those that this process has no room for
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        pid = os.fork()
        if pid == 0:
            self._become_worker(filenos)
        try:
            return pid, os.pidfd_open(pid)  # before the child is reaped, so its number is not reused
        except OSError:
            os.kill(pid, signal.SIGKILL)
            _reap(pid)
            raise

    def _warn_of_threads(self) -> None:
        """Warn once of other threads: a fork does not copy them, but the locks that they hold stay locked."""
        if self._warned:
            return
        names = thread_names()
        if names:
            self._warned = True
            log.warning(
                "importing the app started threads",
                advice="worker processes have none of them and may hang: import the library where it is "
                "used, or open it as a resource (@app.resource)",
                threads=len(names),
                names=sorted(set(names)),
            )

    def _become_worker(self, filenos: Sequence[int]) -> None:
        """Run a worker, in the child. Never returns."""
        try:
            self._control.close()
            for pidfd in self._children:
                os.close(pidfd)
            child.main(self._config, *filenos)
        except BaseException as error:  # noqa: BLE001 - the child must not return into the server's loop
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            os._exit(1)

    def _on_death(self, pidfd: int) -> None:
        self._poll.unregister(pidfd)
        pid = self._children.pop(pidfd)
        os.close(pidfd)
        self._send({"ended": pid, "status": os.waitstatus_to_exitcode(_reap(pid))})

    def _send(self, message: Mapping[str, Any], *filenos: int) -> None:
        with contextlib.suppress(OSError):  # the main process has ended, as the next poll shows
            socket.send_fds(self._control, [orjson.dumps(message)], filenos)

    def _end(self) -> None:
        for pidfd in self._children:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        lifetime.end()


def _reap(pid: int) -> int:
    """Wait for a child that has ended or is about to; return its status."""
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:  # the app ignores SIGCHLD, so the system has reaped it
        return 0


def thread_names() -> list[str]:
    """Return the names of this process's other threads, of Python or not; see ``/proc/PID/task``."""
    known = {str(thread.native_id): thread.name for thread in threading.enumerate()}
    try:
        tasks = [task for task in Path("/proc/self/task").iterdir() if task.name != str(os.getpid())]
        return [known.get(task.name) or (task / "comm").read_text().strip() for task in tasks]
    except OSError:  # a thread has just ended, or there are no descriptors: the next fork tries again
        return []
