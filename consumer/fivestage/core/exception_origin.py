"""Finds the stack frames of an exception, without text and variables, which may contain query text."""

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
MAX_RELATED: Final = 50
_FRAMES: Final = "_fivestage_frames"
_PACKAGE: Final = "fivestage"
_INSTALLED: Final = ("site-packages", "dist-packages")


class Frame(NamedTuple):
    """One frame of a traceback."""

    file: str
    line: int
    function: str
    is_own: bool
    """Application code: not of Python, an installed package or fivestage."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.function}"


def call_in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function for a coroutine of another thread; attach the frames to an exception that it raises.

    The exception is later thrown into that coroutine, and compiled coroutines drop the traceback.
    """
    try:
        return function(*args)
    except BaseException as raised:
        keep_frames(raised)
        raise


def keep_frames(error: BaseException) -> None:
    """Attach its frames to an exception that is raised again elsewhere, in place of its traceback."""
    if attach(error, _collect(error)):
        drop_tracebacks(error)


def attach(error: BaseException, frames: tuple[Frame, ...]) -> bool:
    """Let ``frames_of`` return these; False if the class of the exception refuses attributes."""
    with contextlib.suppress(Exception):
        setattr(error, _FRAMES, frames)
        return True
    return False


def take_frames(error: BaseException) -> tuple[Frame, ...]:
    """Return ``frames_of`` an exception that has been handled, and free them.

    An instance that is raised again would otherwise keep the frames of every raise, with their variables, and
    seem to come from the first place.
    """
    frames = frames_of(error)
    with contextlib.suppress(Exception):
        error.__dict__.pop(_FRAMES, None)
    drop_tracebacks(error)
    return frames


def frames_of(error: BaseException) -> tuple[Frame, ...]:
    """The innermost frames of *error*, the innermost last.

    If none of them is application code, the innermost frame of application code comes first. An exception
    group is followed into its first exception.
    """
    with contextlib.suppress(Exception):  # usually a KeyError: none are attached
        carried: tuple[Frame, ...] = error.__dict__[_FRAMES]
        return carried
    return _collect(error)


def drop_tracebacks(error: BaseException) -> None:
    """Drop the traceback of *error* and of those that it groups or that led to it."""
    for one in related(error):
        BaseException.with_traceback(one, None)


def related(error: BaseException) -> list[BaseException]:
    """Return *error*, then those that it groups and those that led to it: at most MAX_RELATED."""
    found: dict[int, BaseException] = {}
    left = [error]
    with contextlib.suppress(Exception):  # classes of the application may raise
        while left and len(found) < MAX_RELATED:
            one = left.pop()
            found[id(one)] = one
            members = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
            others = (*members, one.__cause__, one.__context__)
            left += [other for other in others if other is not None and id(other) not in found]
    return list(found.values())


def _collect(error: BaseException) -> tuple[Frame, ...]:
    last: deque[Frame] = deque(maxlen=MAX_FRAMES)
    own: Frame | None = None
    try:
        for frame, line in _walk(error):
            code = frame.f_code
            made = Frame(
                code.co_filename,
                line,
                code.co_name,
                is_own(str(frame.f_globals.get("__name__")), code.co_filename),
            )
            last.append(made)
            own = made if made.is_own else own
    except Exception:  # noqa: BLE001 - classes of the application may raise
        return tuple(last)
    return tuple(last) if own is None or own in last else (own, *last)


def _walk(error: BaseException) -> Iterator[tuple[FrameType, int]]:
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
    """Whether a module is application code, rather than of Python, an installed package or fivestage."""
    package = module.partition(".")[0]
    if package == _PACKAGE or package in sys.stdlib_module_names:
        return False
    if path.startswith(("<frozen ", "<string>")):  # no file; `<string>` is the command line of a fork server
        return False
    return not any(f"/{folder}/" in path for folder in _INSTALLED)
