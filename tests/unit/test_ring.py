"""The ring of bytes between a worker process and the main process."""

from __future__ import annotations

import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivestage.executors.process.ring import Ring

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
    assert not writer.wakes()
    for _ in range(2):
        reader.sleep()
        assert [writer.wakes(), writer.wakes()] == [True, False]


@pytest.mark.parametrize("written", [51, 2**64 - 1])
def test_memory_that_code_has_overwritten(written: int) -> None:
    """Counters that no writer leaves are an error, never a read outside of the ring."""
    memory, _, reader = both_ends()
    memoryview(memory)[OFFSET : OFFSET + 8].cast("Q")[0] = written
    with pytest.raises(ValueError, match="no ring"):
        reader.read(10)
