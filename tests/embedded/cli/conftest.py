"""The command line as users run it: separate processes, their output, their exit codes."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pytest

from support import preloaded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

COMMAND = [sys.executable, "-m", "fivestage"]
LIMIT_S = 60.0
STAGES = ("intent", "decision", "processing", "validation", "reflection")
GENEROUS = {
    "PIPELINE__TOTAL_TIMEOUT_MS": "20000",
    "PIPELINE__STAGE_TIMEOUTS_MS": json.dumps(dict.fromkeys(STAGES, 4000)),
}
"""Time limits that a busy machine does not reach."""


def variables(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables of settings."""
    return {f"FIVESTAGE_{name}": value for name, value in settings.items()}


class Ran(NamedTuple):
    """Output and exit code of an ended command."""

    code: int
    out: str
    err: str


class Fivestage(Protocol):
    """Runs ``fivestage`` to its end; settings are environment variables without their prefix."""

    def __call__(self, *arguments: str, stdin: str = "", limit_s: float = LIMIT_S, **settings: str) -> Ran:
        """Run it."""


class RunningCommand:
    """A running command, and its output lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.ready: dict[str, Any] = {}
        """The log line of a service that is ready."""
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def line(self, limit_s: float = LIMIT_S) -> str:
        """Return the next line of standard output."""
        try:
            line = self._lines.get(timeout=limit_s)
        except queue.Empty:
            raise AssertionError(f"no line within {limit_s:g} s of {self.process.args!r}") from None
        assert line is not None, "the command ended"
        return line

    def line_with(self, text: str) -> str:
        """Return the next line that contains *text*."""
        while text not in (line := self.line()):
            pass
        return line

    def end(self, number: int, limit_s: float = LIMIT_S) -> int:
        """Send a signal; return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(limit_s)


class Start(Protocol):
    """Starts ``fivestage``; commands still running at the end of the test are killed."""

    def __call__(self, *arguments: str, **settings: str) -> RunningCommand:
        """Start it."""


class FirstLine(Protocol):
    """Reads one line of a command's output and closes the pipe."""

    def __call__(self, *arguments: str, **settings: str) -> Ran:
        """Run it; ``out`` is the line."""


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Return an environment without settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FIVESTAGE_")}
    for name in ("COLUMNS", "LINES"):
        kept.pop(name, None)
    return {**kept, "NO_COLOR": "1"}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the working directory of the commands."""
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="session")
def fivestage(environment: dict[str, str], folder: Path) -> Fivestage:
    """Return a function that runs a command to its end."""

    def run(*arguments: str, stdin: str = "", limit_s: float = LIMIT_S, **settings: str) -> Ran:
        done = preloaded.run(
            [*COMMAND, *arguments],
            cwd=folder,
            env=environment | variables(settings),
            stdin=stdin,
            timeout=limit_s,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def start_for_session(environment: dict[str, str]) -> Iterator[Start]:
    """Return a function that starts a command, which runs until the end of the session."""
    started: list[RunningCommand] = []

    def start(*arguments: str, **settings: str) -> RunningCommand:
        process = preloaded.Popen[str](
            [*COMMAND, *arguments],
            env=environment | variables(settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(RunningCommand(process))
        return started[-1]

    yield start
    for running in reversed(started):
        process = running.process
        process.kill()
        process.wait(LIMIT_S)
        running._thread.join(LIMIT_S)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


@pytest.fixture
def start(start_for_session: Start) -> Start:
    """Return the same for a test that ends what it starts."""
    return start_for_session


@pytest.fixture
def first_line(environment: dict[str, str]) -> FirstLine:
    """Return a function that reads one line of a command, as ``head -1`` does, and waits for its end."""

    def run(*arguments: str, **settings: str) -> Ran:
        with preloaded.Popen[str](
            [*COMMAND, *arguments],
            env=environment | variables(settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            line = process.stdout.readline()
            process.stdout.close()
            err = process.stderr.read()
            return Ran(process.wait(LIMIT_S), line.rstrip("\n"), err)

    return run


@pytest.fixture(scope="session")
def bootstrap(start_for_session: Start) -> str:
    """Return the address of a ``fivestage broker`` shared by all tests."""
    return start_for_session("broker", "--port", "0", "--partitions", "4").line()


@pytest.fixture(scope="session")
def service(start_for_session: Start, bootstrap: str) -> RunningCommand:
    """Start ``fivestage run`` on that broker, until it is ready."""
    running = start_for_session("run", "--bootstrap", bootstrap, ADMIN__PORT="0", **GENEROUS)
    running.ready = json.loads(running.line_with('"ready"'))
    return running
