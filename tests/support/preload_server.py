"""Imports the whole package, then becomes commands by fork; started by ``preloaded``.

A request is a message of JSON with descriptors: standard input, output, error, a fork server's socket. The
answer is the number of the new process, which is left to the process that asks, as its child.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib.util
import json
import os
import pkgutil
import runpy
import signal
import socket
import sys
import threading
from typing import Any, NoReturn

REQUEST_BYTES = 1 << 20
BROKEN_OUTPUT = 120
"""The exit code of an interpreter that cannot write its last output."""


def preload(package: str) -> None:
    """Import all modules of a package but its programs; and typer's for help, which is imported when needed.

    A module that cannot be imported is left to the commands that need it: they fail as they would elsewhere.
    """
    names = [one.name for one in pkgutil.walk_packages(_path_of(package), f"{package}.", onerror=_ignore)]
    for name in ["typer.rich_utils", *names]:
        if not name.endswith("__main__"):
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def _path_of(package: str) -> list[str]:
    found = importlib.util.find_spec(package)
    return list(found.submodule_search_locations or ()) if found is not None else []


def _ignore(_name: str) -> None:
    pass


def requested(connection: socket.socket) -> dict[str, Any]:
    """Answer requests; return in each new process what it is to be."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, REQUEST_BYTES, 4)
        if not message:
            os._exit(0)
        if (pid := _fork_twice()) == 0:
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
            connection.detach()
            os.closerange(len(descriptors), os.sysconf("SC_OPEN_MAX"))
            request: dict[str, Any] = json.loads(message)
            return request
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(str(pid).encode())


def _fork_twice() -> int:
    """Fork a process whose parent has ended: its next subreaper becomes its parent.

    Returns its number, or 0 in the new process.
    """
    read, write = os.pipe()
    if (between := os.fork()) == 0:
        try:
            if (pid := os.fork()) == 0:
                return 0
            os.write(write, str(pid).encode())
        except OSError:
            os._exit(1)
        os._exit(0)
    os.close(write)
    os.waitpid(between, 0)
    number = os.read(read, 20)
    os.close(read)
    return int(number or -1)


def become(request: dict[str, Any]) -> NoReturn:
    """Run a module as ``python -m`` does, or the program of a fork server."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["start_new_session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[0] = request["cwd"]
    sys.argv = ["-m", *request["arguments"]]
    _open_streams()
    code: object = None
    try:
        _run(request["program"], is_code=request["is_code"])
    except SystemExit as error:
        code = error.code
    _end(code)


def _run(program: str, *, is_code: bool) -> None:
    if is_code:
        exec(program, {"__name__": "__main__"})  # noqa: S102 - of a fork server, and our own
        return
    if not hasattr(sys.modules.get(program), "__path__"):  # a program must not have been imported
        sys.modules.pop(program, None)
    runpy.run_module(program, run_name="__main__", alter_sys=True)


def _open_streams() -> None:
    stdin, stdout = sys.__stdin__, sys.__stdout__
    assert stdin is not None
    assert stdout is not None
    sys.stdin = os.fdopen(0, newline="\n", errors=stdin.errors, closefd=False)
    sys.stdout = os.fdopen(1, "w", errors=stdout.errors, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)


def _end(code: object) -> NoReturn:
    """End the process as the interpreter does, but for freeing the modules, which takes 0.2 s."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if not (code is None or isinstance(code, int)):
        sys.stderr.write(f"{code}\n")
        code = 1
    gc.collect()  # tasks that are left behind say so when they are freed
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        sys.stderr.write(f"Exception ignored in: {sys.stdout!r}\n{type(error).__name__}: {error}\n")
        code = BROKEN_OUTPUT
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    preload("fivestage")
    gc.collect()
    gc.freeze()  # else the first collection of each process copies all pages
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C on make test: pytest ends this one
    become(requested(socket.socket(fileno=int(sys.argv[1]))))
