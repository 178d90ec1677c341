"""Logs what user code raised: its class, file and line, the node or stage; its message only if allowed."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fivestage.core.exception_origin import Frame
    from fivestage.pipeline.call_result import CallResult

LOGGER: Final = "fivestage.nodes"
SHOW_TEXT: Final = "--show-text shows the message"
log = logging.getLogger(LOGGER)


class FailureLog:
    """Writes to the standard library's logger ``fivestage.nodes``."""

    def __init__(self) -> None:
        self.shows_text = False
        """Add the exceptions' messages, which may hold query text (``logging.show_text``)."""
        self.shows_frames = False
        """Add the innermost frames at every level, as ``fivestage dev`` does."""

    def write(
        self,
        result: CallResult,
        *,
        node: str | None,
        stage: str,
        query_id: str,
        declared: tuple[str, int] | None,
    ) -> str:
        """Log a call that ended with an error, as a warning; at DEBUG with its innermost frames.

        An error that is not a failure of the node is logged at DEBUG only. Returns the ``file:line`` where it
        was raised.

        Args:
            result: How the call ended.
            node: The node, in processing.
            stage: The stage.
            query_id: The query's id.
            declared: File and line of the function; logged if the error was not raised in the author's code.
        """
        file, line = _place(result.frames, declared)
        where = f"{file}:{line}".encode("utf-8", "backslashreplace").decode()  # a path may not be UTF-8
        level = logging.DEBUG if result.excused else logging.WARNING
        if not log.isEnabledFor(level):
            return where
        fields: dict[str, Any] = {"error_type": result.error_type, "where": where}
        fields |= {"stage": stage, "query_id": query_id}
        fields["event"] = "stage failed" if node is None else "node failed"
        if node is not None:
            fields["node"] = node
        if self.shows_text:
            fields["error"] = result.error
        elif self.shows_frames:
            fields["advice"] = SHOW_TEXT
        if self.shows_frames or log.isEnabledFor(logging.DEBUG):
            fields["frames"] = [str(frame) for frame in result.frames]
        failed = stage if node is None else f"node {node!r}"
        arguments = (failed, result.error_type, where)
        with contextlib.suppress(Exception):  # record factories, filters and handlers may be the app's
            record = log.makeRecord(LOGGER, level, file, line, "%s failed: %s at %s", arguments, None)
            vars(record).update(fields)  # as ``extra``, which refuses what a factory has set
            log.handle(record)
        return where


failure_log: Final = FailureLog()
"""One per process, like the log."""


def _place(frames: tuple[Frame, ...], declared: tuple[str, int] | None) -> tuple[str, int]:
    """File and line of the author's innermost frame, else of one in the function's file, else *declared*."""
    home = declared[0] if declared else None
    for frame in reversed(frames):
        if frame.is_own:
            return frame.file, frame.line
    for frame in reversed(frames):
        if frame.file == home:
            return frame.file, frame.line
    if declared is not None:
        return declared
    return (frames[-1].file, frames[-1].line) if frames else ("?", 0)
