"""Starts commands by fork from a process that has imported the package: each import would take a second.

The process of a command is a child with its own number, streams, signals and exit code. It differs in what it
shares with the others: modules that are imported already, the order of sets, ``PYTHONUNBUFFERED``. A command
is started in the ordinary way where that may matter: with another Python, other variables than those of
fivestage, on a system without Linux's subreapers, or with ``FIVESTAGE_TEST_START=exec``.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, AnyStr

from fivestage.executors.process import fork_client

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SERVER = Path(__file__).with_name("preload_server.py")
START = "FIVESTAGE_TEST_START"
"""The variable that may be ``exec``."""
FREE = ("FIVESTAGE_", "PYTEST_", "NO_COLOR", "COLUMNS", "LINES")
"""Variables that no module of the package reads when imported, by the start of their names."""
FOLDER = "_APP_FOLDER"
"""The end of the names of those that only apps of tests read."""
_SUBREAPER = 36
_DONE_S = 10.0
_ANSWER_S = 60.0
"""Seconds that a start may take; the first one waits for the imports."""
_LOCK = threading.Lock()


class Popen(subprocess.Popen[AnyStr]):
    """``subprocess.Popen``, which forks ``python -m MODULE`` and fork servers."""

    def _execute_child(self, args: Any, *options: Any) -> None:
        """Make the process; the signature is that of the standard library since Python 3.11."""
        executable, preexec, _, _, cwd, env, _, _, shell = options[:9]
        passed: tuple[int, ...] = options[3]
        unusual = executable or preexec or shell or not _is_program(args, passed)
        server = None if unusual else _server_or_none()
        if server is None or not server.suits(os.environ if env is None else env):
            super()._execute_child(args, *options)  # type: ignore[misc]
            return
        pipes = options[9:15]
        child_ends = pipes[0], pipes[3], pipes[5]
        streams: list[int] = [number if end == -1 else end for number, end in enumerate(child_ends)]
        arguments = [str(len(streams))] if passed else [os.fspath(one) for one in args[3:]]
        try:
            self.pid = server.fork(
                [*streams, *passed],
                program=args[2],
                is_code=args[1] == "-c",
                arguments=arguments,
                cwd=str(Path.cwd() if cwd is None else Path(cwd).resolve()),
                environment=dict(os.environ if env is None else env),
                start_new_session=options[-2],
            )
            self._child_created = True
        finally:
            self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def run(
    command: list[str], *, stdin: str | None = None, timeout: float, **options: Any
) -> subprocess.CompletedProcess[str]:
    """``subprocess.run`` with captured texts; never raises for an exit code."""
    pipe = subprocess.PIPE
    source = subprocess.DEVNULL if stdin is None else pipe
    with Popen[str](command, stdin=source, stdout=pipe, stderr=pipe, text=True, **options) as process:
        try:
            out, err = process.communicate(stdin, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


class _Server:
    """The process that has imported the package."""

    def __init__(self) -> None:
        self._connection, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.settimeout(_ANSWER_S)
        self._environment = _fixed(os.environ)
        self._libc = ctypes.CDLL(None)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, SERVER, str(other.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[other.fileno()],
            )
        atexit.register(self.end)

    def suits(self, environment: Mapping[str, str]) -> bool:
        """Return whether a command with this environment may be forked."""
        return _fixed(environment) == self._environment

    def fork(self, descriptors: list[int], **request: Any) -> int:
        """Start a command as a child of this process; return its number."""
        with _LOCK:
            self._become_subreaper(1)
            try:
                return self._request(descriptors, request)
            except BaseException:
                self._connection.close()  # a late answer would be taken for that of the next request
                _server.cache_clear()
                raise
            finally:
                self._become_subreaper(0)

    def _request(self, descriptors: list[int], request: Mapping[str, Any]) -> int:
        try:
            socket.send_fds(self._connection, [json.dumps(request).encode()], descriptors)
            number = int(self._connection.recv(20) or -1)
        except OSError as error:
            raise AssertionError("the process that imports the package has ended, or hangs") from error
        assert number > 0, "the process that imports the package has ended, or cannot fork"
        return number

    def _become_subreaper(self, value: int) -> None:
        """Have processes whose parent ends become children of this one, or no more."""
        if self._libc.prctl(_SUBREAPER, value):
            raise OSError("prctl(PR_SET_CHILD_SUBREAPER) is refused: set FIVESTAGE_TEST_START=exec")

    def end(self) -> None:
        """End the process; what it has started goes on."""
        self._connection.close()
        self._process.wait(_DONE_S)


def start_server() -> None:
    """Start the process that imports the package, which the first command would wait for otherwise."""
    _server_or_none()


def _server_or_none() -> _Server | None:
    with _LOCK:
        return _server()


@functools.cache
def _server() -> _Server | None:
    if sys.platform != "linux" or os.environ.get(START) == "exec":
        return None
    return _Server()


def _is_program(args: Any, passed: Sequence[int]) -> bool:
    """Return whether the arguments start a command, or a fork server, which gets one descriptor."""
    if passed:
        return list(args[:3]) == [sys.executable, "-c", fork_client._PROGRAM] and len(passed) == 1
    return list(args[:2]) == [sys.executable, "-m"] and args[2].partition(".")[0] == "fivestage"


def _fixed(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: text
        for name, text in environment.items()
        if not (name.startswith(FREE) or name.endswith(FOLDER))
    }
