"""Log and output that cannot be written: a full disk, closed streams, a reader gone or stopped."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fivestage import Pipeline
from fivestage.kafka.embedded_broker import EmbeddedBroker
from fivestage.observability.log_stream import LogStream
from fivestage.settings import TopicSettings
from support.checker import wait_for_results
from support.feeder import event, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from fivestage import Query, StageContext

pytestmark = pytest.mark.fault(40)
TESTS = Path(__file__).parents[2]
TOPICS = TopicSettings()
COUNT = 20


def lost(count: int) -> str:
    """Make the line of lost lines."""
    return f"lost {count}\n"


printing = Pipeline()
"""Run as ``embedded.faults.test_streams:printing``: a node that prints, as users' nodes do."""


@printing.node("printing", intents={"greeting"})
async def _print(query: Query, _ctx: StageContext) -> str:
    print(query.user_input * 1000)  # noqa: T201 - the point of this node
    return "printed"


@pytest.fixture
async def bootstrap() -> AsyncIterator[str]:
    """Start an embedded broker with the five topics."""
    async with EmbeddedBroker(TOPICS.all, partitions=2) as broker:
        yield broker.bootstrap


@pytest.fixture
def full_disk() -> Iterator[int]:
    """Open a device that is always full."""
    with Path("/dev/full").open("wb", buffering=0) as file:
        yield file.fileno()


@pytest.fixture
def closed_reader() -> Iterator[int]:
    """Open a pipe whose reader has gone: writing raises SIGPIPE."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.fixture
def stuck_reader() -> Iterator[int]:
    """Open a full pipe whose reader does not read: writing blocks for ever."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 64)
    os.set_blocking(writer, True)
    yield writer
    os.close(reader)
    os.close(writer)


def leaves_no_core(pid: int) -> bool:
    """Return whether a process that crashes leaves no core dump with queries and secrets."""
    limits = Path(f"/proc/{pid}/limits").read_text()
    return re.search(r"^Max core file size +0 ", limits, flags=re.MULTILINE) is not None


def start(
    bootstrap: str, stderr: int | None, stdout: int | None, command: str = ""
) -> subprocess.Popen[bytes]:
    """Start a service with these streams."""
    settings = {"FIVESTAGE_KAFKA__BOOTSTRAP_SERVERS": bootstrap, "FIVESTAGE_ADMIN__PORT": "0"}
    line = [
        sys.executable,
        "-m",
        "fivestage",
        "run",
        "embedded.faults.test_streams:printing",
        "--log-level",
        "DEBUG",
    ]
    if command:
        line = ["sh", "-c", f'exec "$@" {command}', "sh", *line]
    return subprocess.Popen(line, cwd=TESTS, env={**os.environ, **settings}, stderr=stderr, stdout=stdout)


async def goes_on(bootstrap: str, stderr: int | None, stdout: int | None, command: str = "") -> int:
    """Assert that a service with these streams answers everything; return its exit code at SIGTERM."""
    service = start(bootstrap, stderr, stdout, command)
    try:
        write(bootstrap, TOPICS.queries, [(f"q{n}", event(f"q{n}", "hello")) for n in range(COUNT)])
        wait_for_results(bootstrap, TOPICS.results, COUNT)
        assert leaves_no_core(service.pid)
        service.send_signal(signal.SIGTERM)
        return service.wait(20)
    finally:
        service.kill()
        service.wait()


@pytest.mark.broker
@pytest.mark.parametrize("descriptor", ["full_disk", "closed_reader", "stuck_reader"])
async def test_a_log_that_cannot_be_written(
    bootstrap: str, descriptor: str, request: pytest.FixtureRequest
) -> None:
    """The log is lost, the queries are answered, and SIGTERM ends with 0."""
    assert await goes_on(bootstrap, request.getfixturevalue(descriptor), subprocess.DEVNULL) == 0


@pytest.mark.broker
async def test_output_that_cannot_be_written(bootstrap: str, full_disk: int) -> None:
    """A node that prints has at most an error of its own; the service continues and exits with 0."""
    assert await goes_on(bootstrap, subprocess.DEVNULL, full_disk) == 0


@pytest.mark.broker
async def test_all_streams_closed(bootstrap: str) -> None:
    """A service started without input, output and log runs all the same."""
    assert await goes_on(bootstrap, None, None, "<&- >&- 2>&-") == 0


def test_lines_lost_are_counted() -> None:
    """The first line written again has the number of lost lines."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 16384)
    stream = LogStream(writer, lost)
    for number in range(300):
        stream.write(f"{number:99}\n")
    assert stream.lost > 100
    kept, number = 300 - stream.lost, stream.lost
    assert len(os.read(reader, 65536).splitlines()) == kept
    stream.write("again\n")
    lost_line, again = os.read(reader, 65536).splitlines()
    assert lost_line == b"lost %d" % number
    assert again == b"again"
    os.close(reader)
    stream.write("not read\n")
    assert stream.lost == 1
    os.close(writer)
    stream.write("closed\n")
    assert stream.lost == 2


def test_an_insisted_line_is_not_lost() -> None:
    """An insisted line waits for a slow reader and keeps its place among lost and later lines."""
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 16384)
    stream = LogStream(writer, lost)
    stream.write("x" * size)
    stream.write("lost\n")
    stream.write_important("ready\n")
    stream.write("lost too\n")
    assert os.read(reader, size) == b"x" * size
    lost_line = b"lost 1\n"
    with os.fdopen(reader, "rb") as lines:  # waits until they come, without further writes
        assert [lines.readline(), lines.readline()] == [lost_line, b"ready\n"]
        stream.write("next\n")
        assert [lines.readline(), lines.readline()] == [lost_line, b"next\n"]
    stream.write_important("not read\n")
    assert stream.lost == 1
    os.close(writer)


@pytest.mark.broker
async def test_ready_comes_late_to_a_slow_reader(bootstrap: str) -> None:
    """A reader that starts when the pipe has long been full still gets the ready line, in its place."""
    reader, writer = os.pipe()
    filling = b"." * fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
    os.write(writer, filling)
    service = start(bootstrap, writer, subprocess.DEVNULL)
    os.close(writer)
    try:
        write(bootstrap, TOPICS.queries, [("q", event("q", "hello"))])
        wait_for_results(bootstrap, TOPICS.results, 1)
        said = b""
        while b'"event":"ready"' not in said:
            assert select.select([reader], [], [], 20)[0], said
            said += os.read(reader, 65536)
        service.send_signal(signal.SIGTERM)
        with os.fdopen(reader, "rb") as log:
            said += log.read()
        assert service.wait(20) == 0
    finally:
        service.kill()
        service.wait()
    events = [json.loads(line)["event"] for line in said.removeprefix(filling).splitlines()]
    assert events[:2] == ["log lines lost", "ready"]
    assert "draining" in events[2:]


def test_a_torn_line_stays_alone() -> None:
    """A partly written line is terminated before the next one."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 8192)
    stream = LogStream(writer, lost)
    stream.write("x" * 10_000 + "\n")
    torn = os.read(reader, 65536)
    assert set(torn) == {ord("x")}
    stream.write("next\n")
    assert os.read(reader, 65536).splitlines()[1:][-1] == b"next"
    os.close(reader)
    os.close(writer)


@pytest.mark.fault(40)
def test_a_finalizer_that_logs_while_a_line_is_written() -> None:
    """A line logged by a finalizer during a write is lost and counted; there is no deadlock."""
    reader, writer = os.pipe()
    stream = LogStream(writer, lost)
    with stream._lock:
        stream._is_writing = True
        stream.write("in between\n")
        stream._is_writing = False
    stream.write("after it\n")
    said = os.read(reader, 1000)
    assert b"lost 1\n" in said
    assert said.endswith(b"after it\n")
    os.close(reader)
    os.close(writer)


@pytest.mark.fault(40)
def test_a_fork_can_log() -> None:
    """A fork made while another thread wrote a line can log: that thread does not exist in it."""
    reader, writer = os.pipe()
    stream = LogStream(writer, lost)
    stream._lock.acquire()
    child = os.fork()
    if not child:
        thread = threading.Thread(target=stream.write, args=("from the copy\n",), daemon=True)
        thread.start()
        thread.join(10)
        os._exit(thread.is_alive())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    stream._lock.release()
    assert os.read(reader, 1000) == b"from the copy\n"
    os.close(reader)
    os.close(writer)
