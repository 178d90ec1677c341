"""The ring of bytes between a worker process and the main process."""

from __future__ import annotations

import mmap
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivestage.executors.process.reporter import Outbox
from fivestage.executors.process.ring import WRITTEN, Ring
from fivestage.pipeline import fork_guard

if TYPE_CHECKING:
    from collections.abc import Iterator

OFFSET, SIZE = 64, 256 + 50
"""Room for 50 bytes, behind the counters."""


def both_ends() -> tuple[mmap.mmap, Ring, Ring]:
    """Return the memory, and the ring of the writer and that of the reader."""
    memory = mmap.mmap(-1, OFFSET + SIZE + 64)
    return memory, Ring(memory, OFFSET, SIZE), Ring(memory, OFFSET, SIZE)


@given(st.lists(st.tuples(st.binary(max_size=70), st.integers(0, 70)), max_size=50))
def test_what_is_written_is_read_in_order(steps: list[tuple[bytes, int]]) -> None:
    """Whatever the sizes of writes and reads, no byte is lost, doubled or outside of the ring."""
    memory, writer, reader = both_ends()
    put, got = b"", b""
    for data, most in steps:
        count = writer.write(data)
        assert count == min(len(data), 50 - (len(put) - len(got)))
        put += data[:count]
        assert reader.unread == len(put) - len(got)
        got += reader.read(most)
    assert put == got + reader.read(1000)
    assert not any(memory[:OFFSET])
    assert not any(memory[OFFSET + SIZE :])


def test_the_reader_is_woken_once() -> None:
    """The writer wakes a reader that sleeps, and not again until it sleeps again."""
    _, writer, reader = both_ends()
    assert not writer.take_wake()
    for _ in range(2):
        reader.ask_to_be_woken()
        assert [writer.take_wake(), writer.take_wake()] == [True, False]


@pytest.mark.parametrize("written", [51, 2**64 - 1])
def test_memory_that_code_has_overwritten(written: int) -> None:
    """Counters that no writer leaves are an error, never a read outside of the ring."""
    memory, _, reader = both_ends()
    memoryview(memory)[OFFSET : OFFSET + 8].cast("Q")[WRITTEN] = written
    with pytest.raises(ValueError, match="no ring"):
        reader.read(10)


class Ends:
    """An outbox, and the main process's ends of its ring and its socket."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        _, writer, self.ring = both_ends()
        self.outbox = Outbox(writer, near)
        self._far = far
        far.setblocking(False)

    def woken(self) -> bool:
        """Whether the main process has been woken since the last look."""
        try:
            return bool(self._far.recv(10))
        except BlockingIOError:
            return False


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Lend both ends."""
    near, far = socket.socketpair()
    with near, far:
        yield Ends(near, far)


def test_what_must_not_wait_wakes_the_main_process(ends: Ends) -> None:
    """A note is only written; a frame that is sent wakes a main process that sleeps."""
    ends.ring.ask_to_be_woken()
    ends.outbox.note(b"note")
    assert not ends.woken()
    ends.outbox.send(b"sent")
    assert ends.woken()
    assert ends.ring.read(100) == b"notesent"


@pytest.mark.parametrize("wakes", [False, True])
def test_a_frame_that_is_held_comes_before_the_next(ends: Ends, *, wakes: bool) -> None:
    """It is written with the next one, and wakes the main process if it was to."""
    ends.ring.ask_to_be_woken()
    ends.outbox.hold(b"held", wakes=wakes)
    assert ends.ring.unread == 0
    ends.outbox.note(b"note")
    assert ends.woken() is wakes
    assert ends.ring.read(100) == b"heldnote"
    ends.outbox.note(b"next")
    assert not ends.woken()


def test_a_frame_larger_than_the_ring(ends: Ends) -> None:
    """It is written in parts, as the main process, which is woken, makes room."""
    frame = bytes(range(256)) * 4
    ends.ring.ask_to_be_woken()
    writing = threading.Thread(target=ends.outbox.note, args=(frame,), daemon=True)
    writing.start()
    read = b""
    while len(read) < len(frame):
        read += ends.ring.read(7)
    writing.join(10)
    assert read == frame
    assert ends.woken()


def test_a_forked_copy_writes_nothing(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the process shares the ring, but not the lock that keeps frames apart."""
    ends.ring.ask_to_be_woken()
    monkeypatch.setattr(fork_guard, "count", [fork_guard.count[0] + 1])
    ends.outbox.send(b"from the copy")
    assert (ends.ring.unread, ends.woken()) == (0, False)
    monkeypatch.undo()
    ends.outbox.send(b"from the process")
    assert (ends.ring.read(100), ends.woken()) == (b"from the process", True)
