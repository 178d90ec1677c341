"""Where an exception came from; neither its text nor values of variables, which may hold a query."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType, TracebackType

MAX_FRAMES: Final = 20
_FRAMES: Final = "_fivestage_frames"
_OURS: Final = "fivestage"
_INSTALLED: Final = ("site-packages", "dist-packages")


class Frame(NamedTuple):
    """One frame of a traceback."""

    file: str
    line: int
    function: str
    is_own: bool
    """It is the author's code: not Python's, not an installed package's, not ours."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.function}"


def call_in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a thread; what it raises carries its frames.

    On its way to another thread it is thrown into coroutines, and compiled ones drop the traceback.
    """
    try:
        return function(*args)
    except BaseException as raised:
        with contextlib.suppress(Exception):  # its class is the user's
            setattr(raised, _FRAMES, _look(raised))
        raise


def frames_of(error: BaseException) -> tuple[Frame, ...]:
    """The innermost frames that *error* passed, the innermost last, and the author's innermost before those.

    Of a group of exceptions, the first is followed.
    """
    with contextlib.suppress(Exception):  # mostly a KeyError
        carried: tuple[Frame, ...] = error.__dict__[_FRAMES]
        return carried
    return _look(error)


def _look(error: BaseException) -> tuple[Frame, ...]:
    last: deque[Frame] = deque(maxlen=MAX_FRAMES)
    own: Frame | None = None
    try:
        for frame, line in _runner(error):
            code = frame.f_code
            made = Frame(
                code.co_filename,
                line,
                code.co_name,
                is_own(str(frame.f_globals.get("__name__")), code.co_filename),
            )
            last.append(made)
            own = made if made.is_own else own
    except Exception:  # noqa: BLE001 - its class is the user's, and so may be the group's list
        return tuple(last)
    return tuple(last) if own is None or own in last else (own, *last)


def _runner(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    for _ in range(MAX_FRAMES):
        traceback: TracebackType | None = error.__traceback__
        while traceback is not None:
            yield traceback.tb_frame, traceback.tb_lineno
            traceback = traceback.tb_next
        if not isinstance(error, BaseExceptionGroup):
            return
        error = error.exceptions[0]


@lru_cache(maxsize=1024)
def is_own(module: str, path: str) -> bool:
    """Whether a module is the author's, rather than Python's, an installed package's, or ours."""
    package = module.partition(".")[0]
    if package == _OURS or package in sys.stdlib_module_names:
        return False
    if path.startswith(("<frozen ", "<string>")):  # no file to look at; the last is what runs a fork server
        return False
    return not any(f"/{folder}/" in path for folder in _INSTALLED)
