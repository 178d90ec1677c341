"""A ring of bytes in shared memory, which a worker process writes and the main process reads.

What has been written can still be read when the process that wrote it has died, and neither end needs a
system call. One thread writes at a time, and one reads.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import mmap

WRITTEN, READ, _ASLEEP = 0, 8, 16
"""The indices of counters of bytes, and of a flag; each has a cache line to itself."""
_HEAD_BYTES: Final = 256


class Ring:
    """Both ends of a ring in ``memory[offset : offset + size]``, which is zero at the start.

    Args:
        memory: Shared by both processes.
        offset: Where the ring starts, a multiple of 8.
        size: Its size in bytes, with its counters.
    """

    def __init__(self, memory: mmap.mmap, offset: int, size: int) -> None:
        view = memoryview(memory)[offset : offset + size]
        self._counters: memoryview[int] = view[:_HEAD_BYTES].cast("Q")
        self._bytes = view[_HEAD_BYTES:]
        self._size = len(self._bytes)
        self._fence = threading.Lock()
        self._fence.acquire()

    def __repr__(self) -> str:
        return f"<Ring {self.unread} of {self._size} bytes unread>"

    @property
    def unread(self) -> int:
        """Bytes that can be read; anything if the memory was overwritten."""
        return self._counters[WRITTEN] - self._counters[READ]

    def write(self, data: bytes | memoryview) -> int:
        """Write as much as there is room for, and return how many bytes those are."""
        written = self._counters[WRITTEN]
        count = min(len(data), self._size - (written - self._counters[READ]))
        at = written % self._size
        first = min(count, self._size - at)
        self._bytes[at : at + first] = data[:first]
        if count > first:
            self._bytes[: count - first] = data[first:count]
        self._order()
        self._counters[WRITTEN] = written + count
        self._order()
        return count

    def read(self, most: int) -> bytes:
        """Return what has been written, at most *most* bytes of it.

        Raises:
            ValueError: the memory was overwritten.
        """
        count = self.unread
        if not 0 <= count <= self._size:
            raise ValueError("no ring")
        count = min(count, most)
        self._order()
        start = self._counters[READ]
        at = start % self._size
        first = min(count, self._size - at)
        data = bytes(self._bytes[at : at + first])
        if count > first:
            data += bytes(self._bytes[: count - first])
        self._order()
        self._counters[READ] = start + count
        return data

    def ask_to_be_woken(self) -> None:
        """Ask the writer to wake the reader, which reads once more after this."""
        self._counters[_ASLEEP] = 1
        self._order()

    def take_wake(self) -> bool:
        """Return whether the writer must wake the reader, after ``write``; true once for each request."""
        if not self._counters[_ASLEEP]:
            return False
        self._counters[_ASLEEP] = 0
        return True

    def _order(self) -> None:
        """Let no processor exchange what is before this with what is after it, as ARM's do.

        To release a lock and then acquire it is a memory barrier; the other way round is none.
        """
        self._fence.release()
        self._fence.acquire()
