"""The main process's end of the connection to a worker process."""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from fivestage import Plan, Query
from fivestage.core.job import Job
from fivestage.executors.process import messages
from fivestage.executors.process.connection import MEMORY_BYTES, READ_BYTES, RING_BYTES, WorkerLink
from fivestage.executors.process.frames import Frame, encode
from fivestage.executors.process.ring import WRITTEN, Ring
from fivestage.executors.process.worker import ProcessWorker
from support.jobs import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.realtime

RUN = [0, "success", None, None, None, None, 1, 1.0, 0.1, 0.2, False, None, False, 0.0, None, *[False] * 6]
STARTED = encode(messages.RUNNING, 2, [0, 1.0, 0.1, None, 1, False, 0.0, True, False, False])


def ended(kind: int = messages.FINISHED, **changes: Any) -> bytes:
    """Return a frame that ends the first stage, with other values of the run: ``_6=0`` is its attempt."""
    run = [changes.get(f"_{index}", value) for index, value in enumerate(RUN)]
    return encode(kind, 1, [0, 0, 0, None, run])


INVALID = {
    "zeros": bytes(17),
    "a kind that there is not": encode(99, 1),
    "a kind that goes to the worker": encode(messages.START, 1),
    "the end of a job that is not here": encode(messages.DONE, 9, [True, []]),
    "an end that is neither complete nor not": encode(messages.DONE, 1, [[], []]),
    "the start of a job that is not here": encode(messages.RUNNING, 9, [0]),
    "a start without values": encode(messages.RUNNING, 1),
    "no JSON": encode(messages.FINISHED, 1, [11]).replace(b"[11]", b"[1[]"),
    "JSON that is no list": encode(messages.FINISHED, 1, [11]).replace(b"[11]", b"{ } "),
    "too few values": encode(messages.FINISHED, 1, [1]),
    "text as a time": ended(_7="soon"),
    "a time beyond all events": ended(_8=1e308),
    "an outcome that there is not": ended(_1="maybe"),
    "the second stage before the first": ended(_0=1),
    "a stage that there is not": ended(messages.FAILED_OVER, _0=-1),
    "an attempt beyond all integers": ended(messages.FAILED_OVER, _6=2**63),
    "the start of no stage": encode(
        messages.HEDGE, 1, [-1, 1.0, 0.1, None, 1, False, 0.0, True, False, False]
    ),
    "an offer of a node without a name": encode(messages.OFFER, 1, [1, 0.5, []], b"1"),
    "a wait without an end": encode(messages.GOES_ON, 1, [1.0, None]),
    "calls since a text": encode(messages.STATUS, 0, [["node", "soon", None]]),
    "a failure without a text": encode(messages.NOT_OPEN, 0, [[]]),
    "garbage": b"\xff" * 17,
}


class Place:
    """A link, the worker's end of its ring, and what it has read."""

    def __init__(self) -> None:
        self.link = WorkerLink()
        connection, self.memory, *_ = self.link.open()
        self.socket = socket.socket(fileno=os.dup(connection))
        self.socket.setblocking(False)
        self.mapped = mmap.mmap(self.memory, MEMORY_BYTES)
        self.ring = Ring(self.mapped, mmap.PAGESIZE, RING_BYTES)
        self.frames: list[Frame] = []
        self.link.on_frames = self.frames.extend
        self.process = subprocess.Popen(["sleep", "60"])

    def spawn(self) -> None:
        """Let the link have its process."""
        self.link.spawned(self.process.pid, os.pidfd_open(self.process.pid))

    def write(self, size: int) -> None:
        """Write a whole frame with a blob of this size."""
        frame = encode(messages.PONG, 0, (), bytes(size))
        assert self.ring.write(frame) == len(frame)

    @property
    def sizes(self) -> list[int]:
        """The sizes of the blobs that were read."""
        return [len(frame.blob) for frame in self.frames]


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    """Lend a link."""
    place = Place()
    yield place
    place.link.kill()
    place.process.kill()
    place.process.wait()
    place.socket.close()
    await until(lambda: place.link.gone)


async def test_nothing_is_read_before_there_is_a_process(place: Place) -> None:
    """A worker that is quicker than the answer of the fork server is not heard before it."""
    place.write(0)
    place.link.read()
    assert place.frames == []
    place.spawn()
    place.link.read()
    assert place.sizes == [0]


async def test_one_read_takes_all(place: Place) -> None:
    """Frames larger than one step of reading, and those behind them, are handled at once."""
    place.spawn()
    sizes = [READ_BYTES + 1, READ_BYTES, 0]
    for size in sizes:
        place.write(size)
    place.link.read()
    assert place.sizes == sizes


async def test_the_last_frames_of_a_process_are_read(place: Place) -> None:
    """What a process wrote before its death is read after it, without a wake."""
    place.spawn()
    place.process.kill()
    place.write(READ_BYTES + 1)
    await until(lambda: place.link.gone)
    assert place.sizes == [READ_BYTES + 1]


async def test_memory_that_makes_no_sense_ends_the_process(place: Place) -> None:
    """The link is at its end, and the process is killed."""
    place.spawn()
    memoryview(place.mapped)[mmap.PAGESIZE : mmap.PAGESIZE + 8].cast("Q")[WRITTEN] = 2**63
    place.link.read()
    await until(lambda: place.link.gone)
    assert place.frames == []


@pytest.mark.parametrize("invalid", INVALID.values(), ids=INVALID)
async def test_an_invalid_frame_ends_the_process(place: Place, invalid: bytes) -> None:
    """The process is killed, what it reported of another query counts, and nothing is raised."""
    worker = ProcessWorker(place.link, lambda _: None, 0.03, b'""')
    job, other = (Job(Query(name, "text"), Plan.of(), started_at=0.0, ends_at=1.0) for name in "ab")
    worker.start(job)
    worker.start(other)
    place.spawn()
    place.ring.write(STARTED + invalid)
    place.link.read()
    await until(lambda: place.link.gone)
    assert place.process.poll() is not None
    assert other.history.running is not None
    assert (job.history.runs, job.history.superseded, worker.abandoned()) == ([], [], [])


async def test_a_full_socket_gets_the_rest_later(place: Place) -> None:
    """What is sent to a process that is slow to read arrives whole and in order."""
    place.spawn()
    sent = [bytes([number]) * 100_000 for number in range(50)]
    for data in sent:
        place.link.write(data)
    received = b""
    while len(received) < 5_000_000:
        received += await asyncio.get_running_loop().sock_recv(place.socket, 65_536)
    assert received == b"".join(sent)


async def test_a_full_socket_is_closed(place: Place) -> None:
    """A process that does not read can be killed while data waits for it."""
    errors: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    place.spawn()
    place.link.write(bytes(5_000_000))
    await asyncio.get_running_loop().sock_recv(place.socket, 1)  # some of it was sent, the rest waits
    place.link.kill()
    await until(lambda: place.link.gone)
    assert errors == []


async def test_the_memory_keeps_its_size(place: Place) -> None:
    """Code in the worker cannot cut it off: the main process would end at its next read."""
    with pytest.raises(PermissionError):
        os.ftruncate(place.memory, 0)
