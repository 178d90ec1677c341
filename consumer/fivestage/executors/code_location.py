"""Finds the line of user code that a thread is executing, for the log."""

from __future__ import annotations

import sys
import traceback
from itertools import islice
from typing import TYPE_CHECKING, Final

from fivestage.core.exception_origin import is_own

if TYPE_CHECKING:
    from types import FrameType

MAX_DEPTH: Final = 200


def location_of(thread: int | None) -> str | None:
    """Return ``file:line function`` of the innermost frame of the author's code in a thread.

    If there is none, the innermost frame of all; None if the thread runs no Python.

    Args:
        thread: The thread's ``ident``.
    """
    innermost = None if thread is None else sys._current_frames().get(thread)  # noqa: SLF001
    if innermost is None:
        return None
    frames = [frame for frame, _ in islice(traceback.walk_stack(innermost), MAX_DEPTH)]
    found = next(filter(_is_own, frames), innermost)
    return f"{found.f_code.co_filename}:{found.f_lineno} {found.f_code.co_name}"


def _is_own(frame: FrameType) -> bool:
    return is_own(str(frame.f_globals.get("__name__")), frame.f_code.co_filename)
