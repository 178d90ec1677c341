"""Gives the shape of the log to what Python itself writes to standard error.

These are exceptions that nothing has caught and warnings. What ``faulthandler`` writes when the interpreter
crashes stays as it is: no Python code can run then.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any, TextIO

from fivestage.observability.log_line import described, line_of
from fivestage.observability.log_output import output

if TYPE_CHECKING:
    from types import TracebackType

_LOGGER = "fivestage.python"


def install() -> None:
    """Replace Python's hooks, for the whole process."""
    sys.excepthook = _on_exception
    threading.excepthook = _on_thread_exception
    sys.unraisablehook = _on_unraisable
    warnings.showwarning = _on_warning


def _on_exception(_: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    _write("error", "uncaught exception", **described(error.with_traceback(traceback)))


def _on_thread_exception(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        name = None if args.thread is None else args.thread.name
        _write("error", "uncaught exception in a thread", thread=name, **described(args.exc_value))


def _on_unraisable(args: Any) -> None:
    """Log an exception that cannot be raised, in a finalizer for instance."""
    source = getattr(args.object, "__qualname__", type(args.object).__name__)
    _write("warning", "exception ignored", source=source, **described(args.exc_value))


def _on_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if file is not None:
        file.write(warnings.formatwarning(message, category, filename, lineno, line))
        return
    if _is_written("warning"):
        fields = {"category": category.__name__, "where": f"{filename}:{lineno}"}
        output.write(line_of(time.time(), "warning", str(message), "py.warnings", fields))


def _write(level: str, event: str, **fields: Any) -> None:
    if _is_written(level):
        output.write(line_of(time.time(), level, event, _LOGGER, fields))


def _is_written(level: str) -> bool:
    return logging.getLogger().isEnabledFor(logging.getLevelNamesMapping()[level.upper()])
