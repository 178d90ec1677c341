"""Finds the line of code that a worker process is executing, while its event loop is blocked.

The main process cannot inspect a worker process, and a blocked loop cannot answer. So a thread of the worker
process waits for a request, inspects the frames of that process's main thread, and writes the location into
the shared memory. Code that keeps the interpreter lock stops this thread too: then there is no answer.
"""

from __future__ import annotations

import os
import struct
import threading
from typing import TYPE_CHECKING, Final

from fivestage.executors.code_location import location_of

if TYPE_CHECKING:
    import mmap

    from fivestage.pipeline.step_monitor import StepMonitor

_AT: Final = 64
"""The offset of the answer in the shared memory, behind the cells of the monitor."""
_HEAD: Final = struct.Struct("<QI")
"""The step that the answer is about, and the size of the text."""
_TEXT_AT: Final = _AT + _HEAD.size
MAX_BYTES: Final = 512


def report_location(page: mmap.mmap, monitor: StepMonitor, requests: int) -> None:
    """Start the thread that answers; called on the main thread.

    Args:
        page: The shared memory.
        monitor: Shows the current step.
        requests: An eventfd that the main process writes to.
    """
    main = threading.get_ident()

    def answer() -> None:
        while True:
            os.eventfd_read(requests)
            _, step = monitor.seen()
            text = (location_of(main) or "").encode("utf-8", "backslashreplace")[-MAX_BYTES:]
            page[_TEXT_AT : _TEXT_AT + len(text)] = text
            _HEAD.pack_into(page, _AT, step, len(text))

    threading.Thread(target=answer, name="fivestage-location", daemon=True).start()


def read_location(page: mmap.mmap, step: int) -> str | None:
    """Return the location of the code of a step; None if there is no answer about it."""
    seen, size = _HEAD.unpack_from(page, _AT)
    if seen != step or not 0 < size <= MAX_BYTES:  # the process may write anything
        return None
    return bytes(page[_TEXT_AT : _TEXT_AT + size]).decode("utf-8", "replace")
