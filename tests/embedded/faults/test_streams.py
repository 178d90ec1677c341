"""Log and output that nobody takes: a full disk, closed streams, a reader that is gone or has stopped."""

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

printing = Pipeline()
"""Run as ``embedded.faults.test_streams:printing``: a node that prints, as users' nodes do."""


@printing.node("printing", intents={"greeting"})
async def _print(query: Query, _ctx: StageContext) -> str:
    print(query.user_input * 1000)  # noqa: T201 - the point of this node
    return "printed"


@pytest.fixture
async def bootstrap() -> AsyncIterator[str]:
    """An embedded broker with the five topics."""
    async with EmbeddedBroker(TOPICS.all, partitions=2) as broker:
        yield broker.bootstrap


@pytest.fixture
def full_disk() -> Iterator[int]:
    """A device on which there is never room."""
    with Path("/dev/full").open("wb", buffering=0) as file:
        yield file.fileno()


@pytest.fixture
def nobody_reads() -> Iterator[int]:
    """A pipe whose reader has gone: whoever writes gets SIGPIPE."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.fixture
def stuck_reader() -> Iterator[int]:
    """A full pipe whose reader does not read: whoever writes waits for ever."""
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
    """Whether a process that crashes leaves no image of its memory, which would hold queries and secrets."""
    limits = Path(f"/proc/{pid}/limits").read_text()
    return re.search(r"^Max core file size +0 ", limits, flags=re.MULTILINE) is not None


def start(
    bootstrap: str, stderr: int | None, stdout: int | None, command: str = ""
) -> subprocess.Popen[bytes]:
    """A service with these streams."""
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
    """Whether a service with these streams answers everything, and ends well when told to; its exit code."""
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
@pytest.mark.parametrize("descriptor", ["full_disk", "nobody_reads", "stuck_reader"])
async def test_nobody_takes_the_log(bootstrap: str, descriptor: str, request: pytest.FixtureRequest) -> None:
    """The log is lost, the queries are answered, and SIGTERM ends with 0."""
    assert await goes_on(bootstrap, request.getfixturevalue(descriptor), subprocess.DEVNULL) == 0


@pytest.mark.broker
async def test_nobody_takes_the_output(bootstrap: str, full_disk: int) -> None:
    """A node that prints has an error of its own at most; the service goes on and ends with 0."""
    assert await goes_on(bootstrap, subprocess.DEVNULL, full_disk) == 0


@pytest.mark.broker
async def test_all_streams_closed(bootstrap: str) -> None:
    """Started without input, output and log it runs all the same."""
    assert await goes_on(bootstrap, None, None, "<&- >&- 2>&-") == 0


def test_lines_lost_are_counted() -> None:
    """The first line that is taken again is one that tells how many were not."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 16384)
    stream = LogStream(writer)
    for number in range(300):
        stream.write(f"{number:99}\n")
    assert stream.lost > 100
    kept, lost = 300 - stream.lost, stream.lost
    assert len(os.read(reader, 65536).splitlines()) == kept
    stream.write("again\n")
    told, again = os.read(reader, 65536).splitlines()
    assert told == b'{"event":"log lines lost","level":"warning","count":%d}' % lost
    assert again == b"again"
    os.close(reader)
    stream.write("nobody reads\n")
    assert stream.lost == 1
    os.close(writer)
    stream.write("closed\n")
    assert stream.lost == 2


def test_a_line_that_others_wait_for() -> None:
    """It waits for a slow reader, in its place: behind what was lost before, before what comes after it."""
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 16384)
    stream = LogStream(writer)
    stream.write("x" * size)
    stream.write("lost\n")
    stream.write_important("ready\n")
    stream.write("lost too\n")
    assert os.read(reader, size) == b"x" * size
    told = b'{"event":"log lines lost","level":"warning","count":1}\n'
    with os.fdopen(reader, "rb") as lines:  # waits until they come, though nobody writes any more
        assert [lines.readline(), lines.readline()] == [told, b"ready\n"]
        stream.write("next\n")
        assert [lines.readline(), lines.readline()] == [told, b"next\n"]
    stream.write_important("nobody reads\n")
    assert stream.lost == 1
    os.close(writer)


@pytest.mark.broker
async def test_ready_comes_late_to_a_slow_reader(bootstrap: str) -> None:
    """Who begins to read when the pipe has long been full is told that the service is ready, in its place."""
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
    """A line of which only a part was taken is ended before the next."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 8192)
    stream = LogStream(writer)
    stream.write("x" * 10_000 + "\n")
    torn = os.read(reader, 65536)
    assert set(torn) == {ord("x")}
    stream.write("next\n")
    assert os.read(reader, 65536).splitlines()[1:][-1] == b"next"
    os.close(reader)
    os.close(writer)


@pytest.mark.fault(40)
def test_a_finalizer_that_logs_while_a_line_is_written() -> None:
    """Its line is lost and counted; the thread does not wait for itself."""
    reader, writer = os.pipe()
    stream = LogStream(writer)

    with stream._lock:
        stream._is_writing = True
        stream.write("in between\n")
        stream._is_writing = False
    stream.write("after it\n")
    said = os.read(reader, 1000)
    assert b'"count":1' in said
    assert said.endswith(b"after it\n")
    os.close(reader)
    os.close(writer)


@pytest.mark.fault(40)
def test_a_copy_of_the_process_can_log() -> None:
    """It was made while another thread wrote a line, and that thread is not there to finish it."""
    reader, writer = os.pipe()
    stream = LogStream(writer)
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
