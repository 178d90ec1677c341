"""Imports the whole package, then becomes commands by fork; started by ``preloaded``.

A request is a message of JSON with three descriptors: standard input, output, error. The answer is the number
of the new process, which is left to the process that asks, as its child.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
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


def preload(package: str) -> None:
    """Import all modules of a package but the programs among them, and what they import when called."""
    importlib.import_module("typer.rich_utils")
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def requested(connection: socket.socket) -> dict[str, Any]:
    """Answer requests; return in each new process what it is to be."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, REQUEST_BYTES, 3)
        if not message:
            os._exit(0)
        if (pid := _fork_twice()) == 0:
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
            connection.detach()
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            request: dict[str, Any] = json.loads(message)
            return request
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(str(pid).encode())


def _fork_twice() -> int:
    """Fork a process whose parent has ended: its next subreaper becomes its parent."""
    read, write = os.pipe()
    if (between := os.fork()) == 0:
        if (pid := os.fork()) == 0:
            return 0
        os.write(write, str(pid).encode())
        os._exit(0)
    os.waitpid(between, 0)
    number = int(os.read(read, 20))
    os.close(read)
    os.close(write)
    return number


def become(request: dict[str, Any]) -> None:
    """Run a module as ``python -m`` does."""
    if request["start_new_session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[0] = request["cwd"]
    sys.argv = ["-m", *request["arguments"]]
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as error:
        _end(error.code)
    _end(0)


def _end(code: object) -> NoReturn:
    """End the process as the interpreter does, but for freeing the modules, which takes 0.2 s."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if not (code is None or isinstance(code, int)):
        sys.stderr.write(f"{code}\n")
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    preload("fivestage")
    gc.collect()
    gc.freeze()  # else the first collection of each process copies all pages
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where this one runs in the background
    become(requested(socket.socket(fileno=int(sys.argv[1]))))
