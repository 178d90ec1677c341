"""Where the loop of a worker process is: asked by the bus, answered by a thread of that process.

The bus cannot look into another process, and a loop that does not turn cannot answer. So a thread there
waits for the question, looks at the frames of the main thread, and leaves the answer in the shared memory.
Code that keeps the interpreter lock keeps that thread from it too: then there is no answer.
"""

from __future__ import annotations

import os
import struct
import threading
from typing import TYPE_CHECKING, Final

from fivestage.executors.code_location import place_of

if TYPE_CHECKING:
    import mmap

    from fivestage.pipeline.step_monitor import StepMonitor

_AT: Final = 64
"""Where the answer is in the shared memory, behind the cells of the monitor."""
_HEAD: Final = struct.Struct("<QI")
"""The step that the answer is about, and its size."""
_TEXT_AT: Final = _AT + _HEAD.size
MAX_BYTES: Final = 512


def report_location(page: mmap.mmap, monitor: StepMonitor, questions: int) -> None:
    """Answer in a thread from now on; called on the main thread.

    Args:
        page: The shared memory.
        monitor: Whose code has control.
        questions: An eventfd that the bus writes to.
    """
    main = threading.get_ident()

    def answer() -> None:
        while True:
            os.eventfd_read(questions)
            _, step = monitor.seen()
            text = (place_of(main) or "").encode("utf-8", "backslashreplace")[-MAX_BYTES:]
            page[_TEXT_AT : _TEXT_AT + len(text)] = text
            _HEAD.pack_into(page, _AT, step, len(text))

    threading.Thread(target=answer, name="fivestage-witness", daemon=True).start()


def read_location(page: mmap.mmap, step: int) -> str | None:
    """Where the code of a step is; None where there is no answer about it."""
    seen, size = _HEAD.unpack_from(page, _AT)
    if seen != step or not 0 < size <= MAX_BYTES:  # the process may write anything
        return None
    return bytes(page[_TEXT_AT : _TEXT_AT + size]).decode("utf-8", "replace")
