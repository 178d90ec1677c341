"""Imports the author's Pipeline by its import path."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from typing import TYPE_CHECKING

from fivestage.errors import InvalidAppError
from fivestage.pipeline.pipeline import Pipeline

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import FrameType, TracebackType

_NOT_AUTHORS = ("fivestage", "importlib")


def load_app(target: str | None) -> Pipeline:
    """Import the author's Pipeline.

    Args:
        target: ``MODULE:APP``, or ``MODULE`` for its ``app``; the built-in Pipeline when None.

    Raises:
        InvalidAppError: there is no Pipeline at *target*, or importing the module raised. In the second case
            that exception is the cause, with only the author's frames (see ``authors_traceback``).
    """
    if target is None:
        return Pipeline()
    module_name, name = _parts_of(target)
    try:
        module = importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may raise anything, SystemExit for instance
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            text = f"cannot import {target}: {error}; run from the folder that holds it"
            raise InvalidAppError(text) from None
        _keep_authors_frames(error)
        raise InvalidAppError(f"importing {target} failed: {_in_one_line(error)}") from error
    app = getattr(module, name or "app", None)
    if app is None:
        raise InvalidAppError(f"module {module_name} has no {name or 'app'!r}; write MODULE:APP")
    if not isinstance(app, Pipeline):
        raise InvalidAppError(f"{target} is a {type(app).__name__}, not a fivestage.Pipeline")
    return app


def find_top_level(target: str) -> ModuleSpec | None:
    """Find the top-level package or module of ``MODULE:APP`` without importing it; None if there is none.

    Raises:
        InvalidAppError: *target* names no module.
    """
    return importlib.util.find_spec(_parts_of(target)[0].partition(".")[0])


def _parts_of(target: str) -> tuple[str, str]:
    """Return the names of the module and of the app, and let modules be found in the working directory."""
    module_name, _, name = target.partition(":")
    if not module_name or module_name.startswith("."):
        raise InvalidAppError(f"{target!r} names no module; write MODULE:APP")
    if "" not in sys.path:
        sys.path.insert(0, "")
    return module_name, name


def authors_traceback(error: InvalidAppError) -> str:
    """The traceback of what the author's module raised when it was imported; empty for other errors."""
    cause = error.__cause__
    return "" if cause is None else "".join(traceback.format_exception(cause))


def _keep_authors_frames(error: BaseException) -> None:
    """Remove other frames from the tracebacks of *error*, its causes and contexts.

    These are frames of the command, of this module and of Python's imports, which do not help the author.
    """
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.__traceback__ = _authors_frames(one.__traceback__)
        left += [one.__cause__, one.__context__]


def _authors_frames(frames: TracebackType | None) -> TracebackType | None:
    kept: list[TracebackType] = []
    while frames is not None:
        if _is_authors(frames.tb_frame):
            kept.append(frames)
        frames = frames.tb_next
    following = None
    for one in reversed(kept):
        one.tb_next, following = following, one
    return following


def _is_authors(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return package not in _NOT_AUTHORS and not frame.f_code.co_filename.startswith("<frozen ")


def _in_one_line(error: BaseException) -> str:
    said = str(error).partition("\n")[0]
    text = said if isinstance(error, InvalidAppError) else f"{type(error).__name__}: {said}"
    return text[:512].encode("utf-8", "backslashreplace").decode()
