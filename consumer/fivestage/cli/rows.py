"""Prints results as rows of a table, one line each, on a terminal or into a pipe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fivestage_schemas import PipelineResult

STAGES_HEADING: Final = "I D P V R"
"""Intent, decision, processing, validation, reflection."""
PIPE_WIDTH: Final = 160
"""The width where there is no terminal: enough for most answers."""

_GAP: Final = "  "
_MARKS: Final = {"success": "+", "timeout": "T", "error": "E", "skipped": "-"}
_UNICODE_MARKS: Final = {"success": "✓", "timeout": "T", "error": "✗", "skipped": "·"}
STYLES: Final = {
    "success": "green",
    "degraded": "yellow",
    "partial": "yellow",
    "timeout": "magenta",
    "error": "red",
    "expired": "cyan",
    "dead letter": "red",
    "skipped": "dim",
}


class Column(NamedTuple):
    """A heading, a width in cells (0 = the rest of the line), and whether it is aligned to the right."""

    heading: str
    width: int
    right: bool = False


class OutputConsole(Console):
    """Standard output: with colours on a terminal, as plain text in a pipe.

    Args:
        plain: Plain text on a terminal too.
    """

    def __init__(self, *, plain: bool = False) -> None:
        is_terminal = sys.stdout.isatty()
        super().__init__(
            force_terminal=is_terminal and not plain,
            no_color=plain or None,
            width=None if is_terminal else PIPE_WIDTH,
            highlight=False,
            emoji=False,
            markup=False,
            soft_wrap=False,
        )

    @property
    def draws_unicode(self) -> bool:
        """Whether lines and bars are drawn with more than ASCII: on a terminal with UTF-8 and colours."""
        colours = self.color_system is not None and not self.no_color
        return self.is_terminal and colours and self.encoding.startswith("utf")

    @property
    def is_live(self) -> bool:
        """Whether what was written can be replaced: on a terminal that moves its cursor."""
        return self.is_terminal and not self.is_dumb_terminal

    def on_broken_pipe(self) -> None:
        """Let the command handle a closed pipe; rich would exit the process at once."""
        raise BrokenPipeError


class RowPrinter:
    """Prints rows one at a time, in columns of fixed width, with the headings before the first row.

    A table of rich needs all rows before it can print the first one.

    Args:
        console: Where the rows are printed.
        columns: The columns; the last one gets the rest of the line.
    """

    def __init__(self, console: Console, *columns: Column) -> None:
        self._console = console
        self._columns = columns
        unicode = console.encoding.startswith("utf")
        self._marks = _UNICODE_MARKS if unicode and console.is_terminal else _MARKS
        self._overflow: Literal["ellipsis", "crop"] = "ellipsis" if unicode else "crop"
        self._has_heading = False

    def heading(self) -> None:
        """Print the headings, also if no row follows."""
        self._has_heading = True
        self._print([Text(column.heading, "bold") for column in self._columns])

    def row(self, *cells: str | Text) -> None:
        """Print one line."""
        if not self._has_heading:
            self.heading()
        self._print(cells)

    def marks(self, result: PipelineResult) -> Text:
        """Return one mark for each of the five stages."""
        outcomes = [stage.outcome for stage in result.stages]
        return Text(" ").join(Text(self._marks[outcome], style=STYLES[outcome]) for outcome in outcomes)

    def _print(self, cells: Sequence[str | Text]) -> None:
        line, left = Text(), self._console.width
        for column, cell in zip(self._columns, cells, strict=True):
            text = cell.copy() if isinstance(cell, Text) else Text(clean(cell))
            width = column.width or max(8, left)
            text.truncate(width, overflow=self._overflow)
            text.align("right" if column.right else "left", width)
            line.append_text(text).append(_GAP)
            left -= width + len(_GAP)
        line.rstrip()
        self._console.print(line, no_wrap=True, crop=False)


def clean(text: str) -> str:
    """Replace control characters of foreign text: they could move the cursor, or reprogram the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def spread(parts: Sequence[Text], width: int, gap: int = 3) -> list[Text]:
    """Put parts beside each other on as few lines as they need."""
    lines: list[Text] = []
    for part in parts:
        if lines and lines[-1].cell_len + gap + part.cell_len <= width:
            lines[-1] = lines[-1] + Text(" " * gap) + part
        else:
            lines.append(part)
    return lines


def status_text(status: str) -> Text:
    """Return a status in its colour."""
    return Text(status, style=STYLES.get(status, ""))


def status_of(result: PipelineResult) -> str:
    """Return ``partial`` or ``degraded`` for such a success, otherwise the status."""
    if not result.degraded:
        return result.status
    return "partial" if result.partial else "degraded"


def duration_of(result: PipelineResult) -> str:
    """Return the milliseconds it took; empty for a query that was not started."""
    return f"{result.metrics.total_duration_ms:.1f}" if result.started_at is not None else ""


def answer_of(result: PipelineResult) -> str:
    """Return the answer, or what went wrong; after ``partial:`` what was offered before it went wrong."""
    answer = result.error if result.answer is None else result.answer
    offered = "partial: " if result.partial and not result.degraded else ""
    return "" if answer is None else f"{offered}{answer}"
