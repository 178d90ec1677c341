"""Where log lines go: to standard error, as JSON or as text."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fivestage.observability.log_line import AsText, as_json, line_of
from fivestage.observability.log_stream import LogStream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TextIO

    from fivestage.observability.log_line import Line

OWN: Final = "fivestage."
"""How the names of the service's own loggers begin."""


class LogOutput:
    """Where the lines go and how they are written, as the last ``configure`` has chosen.

    Loggers keep a reference to the one instance, so that each follows the next ``configure``.
    """

    def __init__(self) -> None:
        self.stream: TextIO | LogStream | None = None
        self.render: Callable[[Line], str] = as_json
        self.is_text = False
        """People read it."""
        self.listener: Callable[[Mapping[str, Any]], None] | None = None
        """Gets each line of the service's own loggers, in the thread that writes it."""

    def open(self, style: str) -> None:
        """Write to standard error; *style* is ``auto``, ``json`` or ``text``."""
        stream = sys.stderr
        is_terminal = stream is not None and stream.isatty()
        colors = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.is_text = style == "text" or (style == "auto" and is_terminal)
        self.render = AsText(colors=colors) if self.is_text else as_json
        if not isinstance(self.stream, LogStream):
            self.stream = self._stream()

    def _stream(self) -> TextIO | LogStream:
        """Return standard error as a stream that neither blocks nor raises."""
        try:
            return LogStream(sys.stderr.fileno(), self._lost_line)
        except (AttributeError, OSError):  # there is none, or it is not a real file
            return sys.stderr or Path(os.devnull).open("w", encoding="utf-8")

    def write(self, line: Line, *, important: bool = False) -> None:
        """Write a line; an important one is not lost if the log is read slowly."""
        if self.listener is not None and line["logger"].startswith(OWN):
            self.listener(line)
        text, stream = self.render(line) + "\n", self.stream
        if important and isinstance(stream, LogStream):
            stream.write_important(text)
        elif stream is not None:
            stream.write(text)
            stream.flush()

    def _lost_line(self, count: int) -> str:
        fields = {"count": count}
        return self.render(line_of(time.time(), "warning", "log lines lost", "fivestage.log", fields)) + "\n"


output: Final = LogOutput()
"""One per process, like standard error."""
