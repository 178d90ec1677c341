"""What ends a process of the executor, whatever its code does, and what does not."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import sys
from typing import Final, NoReturn

_PR_SET_PDEATHSIG: Final = 1
_GROUP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, *parent*, ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the line above
        os._exit(1)


def die_with_pipe(lifeline: int) -> None:
    """Have the kernel kill this process when the bus closes the other end of the pipe *lifeline*, or dies.

    Unlike a signal at the parent's death, this lets a worker outlive the fork server; unlike a thread that
    waits for the end of the pipe, it works while code holds the interpreter lock.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(lifeline, 0)
    if poll.poll(0):  # the pipe was closed before the lines above
        os._exit(1)


def ignore_group_signals() -> None:
    """Ignore SIGINT and SIGTERM, which a terminal or supervisor may send to the whole process group.

    With a handler that does nothing, because programs that nodes start would inherit SIG_IGN and could not be
    terminated. Copies of this process made by a node's own fork end as usual.
    """
    for number in _GROUP_SIGNALS:
        signal.signal(number, _ignore)
        signal.siginterrupt(number, False)  # nor is a system call of a node's C library interrupted


def _ignore(_number: int, _frame: object) -> None:
    pass


def _restore_signals() -> None:
    """Restore the default action in a copy of this process, where a Python handler may not run for long."""
    for number in _GROUP_SIGNALS:
        if signal.getsignal(number) is _ignore:
            signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_restore_signals)


def end() -> NoReturn:
    """End this process without waiting for threads, or for what the app registered with ``atexit``."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(0)
