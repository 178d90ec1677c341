"""Makes a Python process on Linux resemble one on macOS: what only Linux has does not exist in it.

The interpreter imports this module before any other, in each process with this folder in ``PYTHONPATH``, so
that child processes do not have these things either. C libraries are the same as ever.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import resource
import select
import selectors
import signal
import socket
import sys
import sysconfig
import time
import types
from typing import Any

PREFIXES: dict[types.ModuleType, tuple[str, ...]] = {
    fcntl: (
        "F_GETSIG",
        "F_SETSIG",
        "F_OFD_",
        "F_GETPIPE_SZ",
        "F_SETPIPE_SZ",
        "F_ADD_SEALS",
        "F_GET_SEALS",
        "F_SEAL_",
    ),
    mmap: ("MAP_POPULATE", "MAP_STACK"),
    os: (
        *("pidfd_open", "P_PIDFD", "memfd_create", "MFD_", "eventfd", "EFD_", "pipe2", "waitid", "splice"),
        *(
            "sched_",
            "posix_fadvise",
            "posix_fallocate",
            "getrandom",
            "copy_file_range",
            "O_DIRECT",
            "O_TMPFILE",
        ),
    ),
    resource: ("prlimit",),
    select: ("epoll", "EPOLL"),
    signal: ("pidfd_send_signal", "sigwaitinfo", "sigtimedwait", "SIGRTM", "SIGSTKFLT", "SIGPWR", "SIGCLD"),
    socket: (
        *("MSG_CMSG_CLOEXEC", "SOCK_CLOEXEC", "SOCK_NONBLOCK", "AF_NETLINK", "AF_PACKET", "SO_PEERCRED"),
        *("TCP_USER_TIMEOUT", "TCP_QUICKACK", "TCP_KEEPIDLE", "SO_BINDTODEVICE"),
    ),
    time: ("pthread_getcpuclockid", "CLOCK_BOOTTIME", "CLOCK_TAI"),
}
"""The beginnings of the names that Python on macOS lacks, by module."""
FUNCTIONS = {"prctl", "pidfd_open", "memfd_create", "eventfd", "pthread_getcpuclockid"}
"""Functions of the C library."""


def _is_under_proc(path: Any) -> bool:
    if not isinstance(path, str | bytes | os.PathLike):
        return False
    return f"{os.fsdecode(path)}/".startswith("/proc/")


def _check(event: str, arguments: tuple[Any, ...]) -> None:
    if event in {"open", "os.listdir", "os.scandir"} and _is_under_proc(arguments[0]):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), arguments[0])
    if event in {"socket.bind", "socket.connect"} and str(arguments[1])[:1] == "\0":
        raise OSError(errno.EINVAL, "there are no abstract sockets")
    if event == "ctypes.dlsym" and arguments[1] in FUNCTIONS:
        raise AttributeError(arguments[1])


def _hide() -> None:
    for module, prefixes in PREFIXES.items():
        for name in [name for name in vars(module) if name.startswith(prefixes)]:
            delattr(module, name)
    stat = os.stat

    def without_proc(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        _check("open", (path,))
        return stat(path, *arguments, **options)

    os.stat = without_proc
    proxies: Any = types.ModuleType("_scproxy")  # urllib asks macOS for its proxies
    proxies._get_proxy_settings = proxies._get_proxies = dict
    sys.modules["_scproxy"] = proxies
    vars(selectors)["DefaultSelector"] = (
        selectors.PollSelector
    )  # what event loops use; that of macOS is not here
    sysconfig.get_config_vars()  # reads a file that is there for the real platform only
    sys.platform = "darwin"
    sys.addaudithook(_check)


_hide()
