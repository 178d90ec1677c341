"""Processes under measurement: the service and its contestants, each in its own session."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
import urllib.request
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
READY_S = 60.0

Samples = dict[str, float]
"""One scrape of /metrics, by name and labels as written there."""
TERMINATED = 128 + signal.SIGTERM
"""The exit code of a verb that is ended by SIGTERM."""


def run_verb(main: Callable[[], Awaitable[int | None]]) -> NoReturn:
    """Run a verb; on SIGTERM, end its processes first: a service left over disturbs what runs next."""

    async def until_terminated() -> int | None:
        running, loop = asyncio.ensure_future(main()), asyncio.get_running_loop()

        def end() -> None:
            loop.add_signal_handler(signal.SIGTERM, lambda: None)  # a second one must not end the clean-up
            running.cancel()

        loop.add_signal_handler(signal.SIGTERM, end)
        return await running

    try:
        sys.exit(asyncio.run(until_terminated()))
    except asyncio.CancelledError:
        sys.exit(TERMINATED)


class Child:
    """A process; its forks end with it.

    Args:
        arguments: Of this Python.
        cwd: Its working directory.
        settings: Additional environment variables.
        python: Another Python to run it with.
    """

    def __init__(
        self,
        *arguments: str,
        cwd: Path = ROOT,
        settings: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> None:
        self._python = python
        self._arguments = arguments
        self._cwd = cwd
        self._settings = settings or {}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.log: deque[dict[str, Any]] = deque(maxlen=200)
        self.ready: asyncio.Future[dict[str, Any]] | None = None
        self.started_at = 0.0
        self.ready_at = 0.0
        """Wall clock."""
        self.stopping_at: float | None = None
        """The wall-clock time at which it said that it gives up."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    @property
    def pid(self) -> int:
        """Return the process id."""
        assert self._process is not None
        return self._process.pid

    def workers(self) -> int:
        """Return the number of its child processes."""
        found = 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has just ended
                found += int(path.read_text().rpartition(")")[2].split()[1]) == self.pid
        return found

    async def start(self) -> None:
        """Start it; it need not be ready."""
        self.started_at = time.time()
        self.ready = asyncio.get_running_loop().create_future()
        self._process = await asyncio.create_subprocess_exec(
            self._python,
            *self._arguments,
            cwd=self._cwd,
            env={**os.environ, **self._settings},
            stdout=asyncio.subprocess.DEVNULL,  # some print a greeting there
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
            start_new_session=True,
        )
        self._reading = asyncio.create_task(self._read(self._process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Read the log: JSON lines among other output."""
        assert process.stderr is not None
        async for line in process.stderr:
            try:
                said = json.loads(line)
            except ValueError:
                said = {}
            event = said if isinstance(said, dict) and "event" in said else {"event": line.decode().strip()}
            self.log.append(event)
            if event["event"] == "ready" and self.ready is not None and not self.ready.done():
                self.ready_at = time.time()
                self.ready.set_result(event)
            elif event["event"] == "stopping" and self.stopping_at is None:
                self.stopping_at = time.time()

    async def until_ready(self) -> bool:
        """Wait for the log line ``ready``; return False when the process ended instead."""
        assert self.ready is not None
        ending = asyncio.ensure_future(self.exited())
        either: set[asyncio.Future[Any]] = {self.ready, ending}
        await asyncio.wait(either, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        return self.ready.done()

    async def exited(self) -> int:
        """Wait for its end; return the exit code."""
        assert self._process is not None
        return await self._process.wait()

    async def end(self, number: signal.Signals = signal.SIGTERM, limit_s: float = 20.0) -> int:
        """Send a signal, wait, and kill what is left of the session; return the exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), limit_s)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        code = await self._process.wait()
        if self._reading is not None:
            await asyncio.wait({self._reading}, timeout=5)
            self._reading.cancel()
        return code


class Service(Child):
    """``fivestage run`` with an application of this folder.

    Args:
        app: ``MODULE:APP``.
        settings: By their dotted key, such as ``{"admission.max_in_flight": 16}``.
        python: Another Python to run it with.
    """

    def __init__(self, app: str, settings: Mapping[str, object], python: str = sys.executable) -> None:
        given = {"admin.port": 0, "kafka.fetch_max_wait_ms": 10, **settings}
        environment = {
            f"FIVESTAGE_{key.upper().replace('.', '__')}": str(value) for key, value in given.items()
        }
        super().__init__("-m", "fivestage", "run", app, cwd=HERE, settings=environment, python=python)

    async def scrape(self) -> Samples | None:
        """Scrape /metrics; return None when it does not answer."""
        if self.ready is None or not self.ready.done():
            return None
        url = f"http://127.0.0.1:{self.ready.result()['admin_port']}/metrics"
        with contextlib.suppress(OSError):
            return await asyncio.to_thread(_samples, url)
        return None


def _samples(url: str) -> Samples:
    with urllib.request.urlopen(url, timeout=5) as response:
        lines = response.read().decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def total(samples: Samples, name: str) -> float | None:
    """Return a metric summed over its labels; None when it does not exist."""
    found = [value for key, value in samples.items() if key == name or key.startswith(name + "{")]
    return sum(found) if found else None
