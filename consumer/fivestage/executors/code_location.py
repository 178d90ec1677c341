"""Where user code is that does not give control back: the line of it that an operator should look at."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from fivestage.core.exception_origin import is_own

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

MAX_DEPTH: Final = 200


def place_of(thread: int | None) -> str | None:
    """Where a thread is now, by its Python number: ``file:line function`` of the author's innermost frame.

    Where there is none of the author's, it is the innermost of all; None for a thread that runs no Python.
    """
    frames = [] if thread is None else list(_outwards(sys._current_frames().get(thread)))  # noqa: SLF001
    found = next(filter(_is_own, frames), frames[0] if frames else None)
    return None if found is None else f"{found.f_code.co_filename}:{found.f_lineno} {found.f_code.co_name}"


def _is_own(frame: FrameType) -> bool:
    return is_own(str(frame.f_globals.get("__name__")), frame.f_code.co_filename)


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    for _ in range(MAX_DEPTH):
        if frame is None:
            return
        yield frame
        frame = frame.f_back
