"""The service as deployed: a process, its log lines, its signals."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from support.preloaded import Popen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TESTS = Path(__file__).parent.parent
READY_S = 60.0
LOG_S = 30.0
LAST_LINES = 40
"""Log lines of a service that are printed where its ``with`` block fails."""


class ServiceProcess:
    """``fivestage run`` in a child process.

    Args:
        app: ``MODULE:APP``.
        bootstrap: The broker.
        settings: Further settings by their dotted key, such as ``{"kafka.group_id": "g"}``.
        arguments: Further command line arguments.
        environment: Further variables.
        executable: Instead of this Python.
        own_group: Be the leader of a process group.
    """

    def __init__(
        self,
        app: str,
        bootstrap: str,
        settings: Mapping[str, object] | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        executable: str = sys.executable,
        *,
        own_group: bool = False,
    ) -> None:
        self._settings = {"kafka.bootstrap_servers": bootstrap, "admin.port": 0, **(settings or {})}
        self._arguments = [app, *arguments]
        self._environment = environment or {}
        self._executable = executable
        self._own_group = own_group
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.log: list[dict[str, Any]] = []
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.launch()
        try:
            self.wait_for("ready")
        except BaseException as error:
            self.__exit__(type(error))
            raise
        return self

    def __exit__(self, failure: type[BaseException] | None = None, *_: object) -> None:
        """End the process; if the block failed, print the end of its log, which pytest shows."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(READY_S)
        if failure is not None:
            self._reader.join(1)  # children of the process may keep its log open
            lines = [json.dumps(line) for line in self._read_so_far()[-LAST_LINES:]]
            sys.stdout.write("\n".join(["", *lines, ""]))

    def launch(self) -> None:
        """Start the process without waiting for it."""
        environment = {
            f"FIVESTAGE_{k.upper().replace('.', '__')}": _text(v) for k, v in self._settings.items()
        }
        self.process = Popen[bytes](
            [self._executable, "-m", "fivestage", "run", *self._arguments],
            cwd=TESTS,
            env={**os.environ, **environment, **self._environment},
            stderr=subprocess.PIPE,
            start_new_session=self._own_group,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process is not None
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                try:
                    self._lines.put(json.loads(line))
                except ValueError:
                    self._lines.put({"event": "not JSON", "line": line.decode(errors="replace")})
        self._lines.put(None)

    def wait_for(self, event: str, limit_s: float = READY_S) -> dict[str, Any]:
        """Return the next log line with this ``event``."""
        end = time.monotonic() + limit_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {event!r} within {limit_s} s; log: {self.log[-5:]}") from None
            if line is None:
                raise AssertionError(f"the service ended before {event!r}; log: {self.log[-5:]}")
            self.log.append(line)
            if line["event"] == event:
                return line

    def end(self, number: signal.Signals = signal.SIGTERM, limit_s: float = 30.0) -> int:
        """Send a signal and wait for the end; return the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.wait(limit_s)

    def wait(self, limit_s: float = 30.0) -> int:
        """Wait for the end; return the exit code."""
        assert self.process is not None
        try:
            code = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()  # a test that fails here may not reach the end of a ``with`` block
            text = f"the service did not end within {limit_s:.0f} s; log: {self._read_so_far()[-5:]}"
            raise AssertionError(text) from None
        self._read_to_its_end(code)
        return code

    def _read_to_its_end(self, code: int) -> None:
        """Read what is left of the log."""
        end = time.monotonic() + LOG_S
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                text = f"the service ended with {code}, and {LOG_S:.0f} s later its log is still written to"
                raise AssertionError(f"{text}: {self.log[-5:]}") from None
            if line is None:
                return
            self.log.append(line)

    def _read_so_far(self) -> list[dict[str, Any]]:
        with contextlib.suppress(queue.Empty):
            while (line := self._lines.get_nowait()) is not None:
                self.log.append(line)
        return self.log


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
