"""What user code raises, as one line of the log: where, and whose; its text only where that may be shown."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fivestage.core.exception_origin import Frame
    from fivestage.pipeline.call_result import CallResult

LOGGER: Final = "fivestage.nodes"
FIELDS: Final = ("error_type", "where", "node", "stage", "query_id", "error", "frames")
"""What a record has beside its message."""
log = logging.getLogger(LOGGER)


class FailureLog:
    """Writes the lines, to the standard library's logger ``fivestage.nodes``."""

    def __init__(self) -> None:
        self.shows_text = False
        """Add the exceptions' messages, which may hold query text (``logging.show_text``)."""

    def write(
        self,
        ending: CallResult,
        *,
        node: str | None,
        stage: str,
        query_id: str,
        declared: tuple[str, int] | None,
    ) -> None:
        """Log a call that ended as an error: a warning, and at DEBUG with its innermost frames.

        What is no failure of the node is logged at DEBUG only.

        Args:
            ending: How it ended.
            node: The node, in processing.
            stage: The stage.
            query_id: The query's id.
            declared: File and line of the function, which stand for what it returned being wrong.
        """
        level = logging.DEBUG if ending.excused else logging.WARNING
        if not log.isEnabledFor(level):
            return
        file, line = _place(ending.frames, declared)
        where = f"{file}:{line}"
        fields: dict[str, Any] = {
            "error_type": ending.error_type,
            "where": where,
            "stage": stage,
            "query_id": query_id,
        }
        if node is not None:
            fields["node"] = node
        if self.shows_text:
            fields["error"] = ending.error
        if log.isEnabledFor(logging.DEBUG):
            fields["frames"] = [str(frame) for frame in ending.frames]
        whose = stage if node is None else f"node {node!r}"
        arguments = (whose, ending.error_type, where)
        log.handle(
            log.makeRecord(LOGGER, level, file, line, "%s failed: %s at %s", arguments, None, extra=fields)
        )


failure_log: Final = FailureLog()
"""The one of this process, as is the log."""


def _place(frames: tuple[Frame, ...], declared: tuple[str, int] | None) -> tuple[str, int]:
    """The innermost frame of the author's code; else of the function's file, which may be installed."""
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
