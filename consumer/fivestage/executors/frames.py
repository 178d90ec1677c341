"""Where user code is: the line of it that an operator should look at."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

MAX_DEPTH: Final = 200
_NOT_THE_AUTHORS: Final = tuple(
    {
        str(Path(__file__).parent.parent),
        *(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        "<frozen",
    }
)


def place_in(frame: FrameType | None) -> str | None:
    """``file:line function`` of the innermost frame of the author's code, else of the innermost frame."""
    frames = list(_outwards(frame))
    own = (one for one in frames if not one.f_code.co_filename.startswith(_NOT_THE_AUTHORS))
    found = next(own, frames[0] if frames else None)
    return None if found is None else f"{found.f_code.co_filename}:{found.f_lineno} {found.f_code.co_name}"


def place_of(thread: int | None) -> str | None:
    """The same for what a thread runs now, by its Python number."""
    return None if thread is None else place_in(sys._current_frames().get(thread))  # noqa: SLF001 - documented


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    for _ in range(MAX_DEPTH):
        if frame is None:
            return
        yield frame
        frame = frame.f_back
