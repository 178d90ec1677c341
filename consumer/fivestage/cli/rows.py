"""How results look in a terminal or a pipe: one line each, in columns."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fivestage_schemas import PipelineResult

STAGES_HEADING: Final = "I D P V R"
"""Intent, decision, processing, validation, reflection."""
PIPE_WIDTH: Final = 160
"""Wide enough for a whole answer in most cases, where no terminal sets a width."""

_GAP: Final = "  "
_MARKS: Final = {"success": "+", "timeout": "T", "error": "E", "skipped": "-"}
_PRETTY_MARKS: Final = {"success": "✓", "timeout": "T", "error": "✗", "skipped": "·"}
_STYLES: Final = {
    "success": "green",
    "degraded": "yellow",
    "timeout": "magenta",
    "error": "red",
    "expired": "cyan",
    "dead letter": "red",
    "skipped": "dim",
}


class Column(NamedTuple):
    """A heading, a width in cells (0 = the rest of the line), and whether it is for figures."""

    heading: str
    width: int
    right: bool = False


class OutputConsole(Console):
    """Standard output: colours and the terminal's width there, plain text in a pipe.

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

    def on_broken_pipe(self) -> None:
        """Leave it to the command: rich would end the process, and children with it."""
        raise BrokenPipeError


class RowPrinter:
    """Prints cells in columns that stay where they are.

    Args:
        console: Where to.
        columns: The columns; the last one takes the rest of the line.
    """

    def __init__(self, console: Console, columns: Sequence[Column]) -> None:
        self.console = console
        self._columns = columns
        unicode = console.encoding.startswith("utf")
        self._marks = _PRETTY_MARKS if unicode and console.is_terminal else _MARKS
        self._overflow: Literal["ellipsis", "crop"] = "ellipsis" if unicode else "crop"

    def heading(self) -> None:
        """Print the headings."""
        line = self._line([column.heading for column in self._columns])
        line.stylize("bold")
        self._print(line)

    def row(self, *cells: str | Text) -> None:
        """Print one line."""
        self._print(self._line(cells))

    def marks(self, outcomes: Sequence[str]) -> Text:
        """The five stages, one mark each."""
        styled = [Text(self._marks[outcome], style=_STYLES[outcome]) for outcome in outcomes]
        return Text(" ").join(styled)

    def _line(self, cells: Sequence[str | Text]) -> Text:
        line = Text()
        left = self.console.width
        for column, cell in zip(self._columns, cells, strict=True):
            text = cell.copy() if isinstance(cell, Text) else Text(clean(cell))
            width = column.width or max(8, left)
            text.truncate(width, overflow=self._overflow)
            text.align("right" if column.right else "left", width)
            line = line.append_text(text).append(_GAP)
            left -= width + len(_GAP)
        line.rstrip()
        return line

    def _print(self, line: Text) -> None:
        self.console.print(line, no_wrap=True, crop=False)


def clean(text: str) -> str:
    """Text of others, fit for a terminal: control characters would move the cursor, or worse."""
    return "".join(character if character.isprintable() else " " for character in text)


def status_text(status: str) -> Text:
    """A status in its colour."""
    return Text(status, style=_STYLES.get(status, ""))


def shown_status(result: PipelineResult) -> str:
    """``degraded`` for a success that is one, otherwise the status."""
    return "degraded" if result.degraded else result.status


def duration_of(result: PipelineResult) -> str:
    """Milliseconds; nothing for a query that was not started."""
    return f"{result.metrics.total_duration_ms:.1f}" if result.started_at is not None else ""


def ending_of(result: PipelineResult) -> str:
    """The answer, or what went wrong."""
    answer: Any = result.error if result.answer is None else result.answer
    return clean("" if answer is None else str(answer))
