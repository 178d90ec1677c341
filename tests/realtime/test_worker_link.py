"""The main process's end of the connection to a worker process."""

from __future__ import annotations

import mmap
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from fivestage.executors.process import messages
from fivestage.executors.process.connection import MEMORY_BYTES, READ_BYTES, RING_BYTES, WorkerLink
from fivestage.executors.process.frames import Frame, encode
from fivestage.executors.process.ring import WRITTEN, Ring
from support.jobs import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.realtime


class Place:
    """A link, the worker's end of its ring, and what it has read."""

    def __init__(self) -> None:
        self.link = WorkerLink()
        _, self.memory, *_ = self.link.open()
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


async def test_the_memory_keeps_its_size(place: Place) -> None:
    """Code in the worker cannot cut it off: the main process would end at its next read."""
    with pytest.raises(PermissionError):
        os.ftruncate(place.memory, 0)
