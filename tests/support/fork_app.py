"""A Pipeline whose fork server misbehaves while a file with the fault's name is in FORK_APP_FOLDER.

The first word of a query is the node. The names of the files it makes itself end with ``-now``.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import ctypes
import errno
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fivestage import Pipeline, Query
from fivestage.core.job import Job
from fivestage.executors.process.fork_requests import ForkTimeouts
from support import process_app
from support.kinds import pids_of

if TYPE_CHECKING:
    from fivestage import StageContext
    from fivestage.executors.process.executor import ProcessExecutor

FOLDER = Path(os.environ.get("FORK_APP_FOLDER", "no-such-folder"))
LONG_S = process_app.LONG_S
app = Pipeline(builtins=False)


@app.decision
async def _decide(query: Query, _ctx: StageContext) -> str:
    return query.user_input.partition(" ")[0]


@app.node("pid")
async def _pid(_query: Query, _ctx: StageContext) -> int:
    return os.getpid()


@app.node("holds")
async def _holds(_query: Query, _ctx: StageContext) -> None:
    """Hold the interpreter lock."""
    ctypes.PyDLL(None).sleep(int(LONG_S))


def _has(habit: str) -> bool:
    return (FOLDER / habit).exists()


def _sleep(habit: str) -> None:
    """Say so, and wait as long as the fault lasts."""
    (FOLDER / f"{habit}-now").touch()
    while _has(habit):
        time.sleep(0.01)


def _open_files() -> list[int]:
    """Open descriptors up to the limit; a socket from the parent may have any number."""
    return [number for path in Path("/proc/self/fd").iterdir() if (number := int(path.name)) > 2]


def _scribble() -> None:
    """Write into every packet socket."""
    for fileno in _open_files():
        try:
            kind = socket.socket(fileno=os.dup(fileno))
        except OSError:
            continue
        with kind:
            if kind.type == socket.SOCK_SEQPACKET:
                kind.send(b"neither JSON nor")


def _fork() -> int:
    """Replace ``os.fork``."""
    if _has("no-memory"):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    if _has("scribbles"):
        _scribble()
    if _has("closes"):
        for fileno in _open_files():
            with contextlib.suppress(OSError):  # the listing's own
                os.close(fileno)
        time.sleep(LONG_S)
    if _has("hangs"):
        _sleep("hangs")
    pid = _real_fork()
    if not pid and _has("stillborn"):
        os._exit(9)
    return pid


def _start_native_thread() -> None:
    """Start a thread unknown to the threading module, with a name as gRPC gives it."""
    named = threading.Event()

    def wait() -> None:
        ctypes.CDLL(None).prctl(15, b"grpc_poller", 0, 0, 0)
        named.set()
        time.sleep(LONG_S)

    _thread.start_new_thread(wait, ())
    named.wait()


_real_fork = os.fork
if FOLDER.exists():
    os.fork = _fork
    if _has("slow"):
        _sleep("slow")
    if _has("broken"):
        raise RuntimeError("it is broken")
    if _has("thread"):
        _start_native_thread()
    if _has("reaps"):
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def executor(**options: Any) -> ProcessExecutor:
    """Build an executor that runs this app."""
    chosen: dict[str, Any] = {"timeouts": ForkTimeouts(answer_s=1.0), "spares": 0, **options}
    return process_app.executor(app="support.fork_app:app", **chosen)


def outlive() -> None:
    """Let a worker that holds its interpreter outlive its fork server; print all pids, and wait."""

    async def main() -> None:
        running = executor()
        await running.start(lambda _: None)
        old, (worker,) = pids_of(running)[0], pids_of(running)[1:]
        now = asyncio.get_running_loop().time()
        job = Job(Query("q", "holds"), process_app.PLAN, started_at=now, ends_at=now + LONG_S)
        running.submit(job)
        while job.history.running is None or job.history.running.node != "holds":
            await asyncio.sleep(0.01)
            running.refresh()
        os.kill(old, signal.SIGKILL)
        assert running._spawner is not None
        while pids_of(running)[0] == old or len(running._spawner._requests):
            await asyncio.sleep(0.01)
        running._spawner.take()
        while len(running._spawner._requests) or not running._spawner._requests._serving:
            await asyncio.sleep(0.01)
        pids = {worker, pids_of(running)[0], *(link.pid for link in running._spawner._links)}
        print("pids", *pids, flush=True)  # noqa: T201 - the test reads this
        await asyncio.sleep(LONG_S)

    asyncio.run(main())
