"""Draws the timeline of a query on a ruler of its budget, in text."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.text import Text

from fivestage.cli import rows
from fivestage_schemas import AttemptKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fivestage.cli.timeline import Step, Timeline

QUEUE_SHARE: Final = 0.2
"""How much of the ruler the wait before the start, or for the publication, may take; of the budget."""
MOST_MS: Final = 1e15
"""Results come from elsewhere, with any number: beyond this one a ruler would have no labels."""
LABEL_CELLS: Final = 8
"""The least distance of two labels of the ruler."""
FACTORS: Final = (1, 2, 5)
"""Times a power of ten: the distance of two labels, in milliseconds."""
NOTE_CELLS: Final = 34
"""From this room beside the ruler on, notes are on the lines of their bars."""
NAME_CELLS: Final = 10
TOOK_CELLS: Final = 11
LEAST_RULER: Final = 16


class _Signs(NamedTuple):
    """The characters of a drawing."""

    bar: str
    moment: str
    """For what took less than a cell."""
    waited: str
    failed: str
    limit: str
    cut: str
    """The wait began before the ruler does."""
    published: str
    later: str
    """It was published after the ruler ends."""


UNICODE: Final = _Signs("█", "▏", "░", "✗", "┊", "◂", "◆", "▸")
ASCII: Final = _Signs("#", "|", ".", "x", ":", "<", "*", ">")


class Ruler:
    """Maps milliseconds to cells of a line.

    Args:
        timeline: What is to be drawn.
        cells: The width in cells.
    """

    def __init__(self, timeline: Timeline, cells: int) -> None:
        self.cells = cells
        self.begin_ms = -min(timeline.queue_ms, QUEUE_SHARE * timeline.budget_ms, MOST_MS)
        ended_ms = max(timeline.budget_ms, timeline.total_ms, 1.0)
        published_ms = min(timeline.published_ms or 0.0, ended_ms + QUEUE_SHARE * timeline.budget_ms)
        self.end_ms = min(max(ended_ms, published_ms), MOST_MS)

    def cell(self, ms: float) -> int:
        """Return the cell of a moment; those outside are at the ends."""
        share = (ms - self.begin_ms) / (self.end_ms - self.begin_ms)
        return min(self.cells - 1, max(0, int(share * self.cells))) if isfinite(share) else self.cells - 1

    def length(self, ms: float) -> int:
        """Return the number of cells of a duration; 0 if it is less than half a cell."""
        share = ms / (self.end_ms - self.begin_ms)
        return round(min(share, 1.0) * self.cells) if isfinite(share) else self.cells

    def labels(self) -> str:
        """Return the line with the labels, each of which begins at its moment; the last one may end there."""
        step, at = self._step(), 0.0
        line = ""
        while at <= self.end_ms:
            label = f"{at:g}"
            start = min(self.cell(at), self.cells - len(label))
            if start > len(line) or not line:
                line = line.ljust(start) + label
            at += step
        return line

    def _step(self) -> float:
        fits = max(1, self.cells // LABEL_CELLS)
        least, scale = (self.end_ms - self.begin_ms) / fits, 1.0
        while True:
            for factor in FACTORS:
                if factor * scale >= least:
                    return factor * scale
            scale *= 10


def draw(timeline: Timeline, width: int, *, unicode: bool) -> Iterator[Text]:
    """Return the lines: the labels, the wait, each attempt, and the publication."""
    signs = UNICODE if unicode else ASCII
    left = NAME_CELLS + TOOK_CELLS + 2
    beside = width - left >= LEAST_RULER + NOTE_CELLS
    ruler = Ruler(timeline, max(LEAST_RULER, width - left - 2 - (NOTE_CELLS if beside else 0)))
    yield Text(" " * left + ruler.labels(), "dim")
    if timeline.queue_ms >= 1:
        yield _line("queued", f"{timeline.queue_ms:.0f} ms", _wait(timeline, ruler, signs))
    if (moved := _hand_over(timeline, ruler, signs)) is not None:
        yield moved
    stage = ""
    for step in timeline.steps:
        name, stage = "" if step.stage == stage else step.stage, step.stage
        if step.start_ms is None:
            yield _line(name, "", Text(_words("skipped", step.note), "dim"))
            continue
        took = f"{step.duration_ms:.0f} / {step.limit_ms:.0f}"
        bar, note = _bar(step, ruler, signs), _note(step)
        if note and beside:
            bar.pad_right(ruler.cells - bar.cell_len)
            bar.append_text(Text("  ") + note)
        yield _line(name, took, bar)
        if note and not beside:
            yield Text("  ") + note
    if timeline.published_ms is not None:
        after_ms = max(0.0, timeline.published_ms - timeline.total_ms)
        sign = signs.later if timeline.published_ms > ruler.end_ms else signs.published
        mark = Text(" " * ruler.cell(timeline.published_ms) + sign)
        yield _line("published", f"+{after_ms:.0f} ms", mark)


def bar_line(timeline: Timeline, cells: int, *, unicode: bool) -> Text:
    """Draw all attempts into one line of *cells*: each cell has the first letter of the stage."""
    ruler = Ruler(timeline._replace(queue_ms=0.0, published_ms=None), cells)
    failed = (UNICODE if unicode else ASCII).failed
    drawn = [Text(" ")] * cells
    for step in timeline.steps:
        if step.start_ms is None:
            continue
        first = ruler.cell(step.start_ms)
        length = ruler.length(step.duration_ms)
        if not length and drawn[first].plain != " ":
            continue  # it took no time, and does not hide what did
        last = min(cells, first + max(1, length)) - 1
        style = rows.STYLES.get(step.outcome, "")
        drawn[first : last + 1] = [Text(step.stage[0].upper(), style)] * (last + 1 - first)
        if step.outcome in {"timeout", "error"}:
            drawn[last] = Text(failed, style)
    return Text("").join(drawn)


def _line(name: str, took: str, rest: Text) -> Text:
    line = Text(f"{name:<{NAME_CELLS}} {took:>{TOOK_CELLS}} ") + rest
    line.rstrip()
    return line


def _wait(timeline: Timeline, ruler: Ruler, signs: _Signs) -> Text:
    cells = max(1, ruler.cell(0.0))
    is_cut = -timeline.queue_ms < ruler.begin_ms
    return Text((signs.cut if is_cut else signs.waited) + signs.waited * (cells - 1), "dim")


def _hand_over(timeline: Timeline, ruler: Ruler, signs: _Signs) -> Text | None:
    """The time between the loops: before the first stage, and after the last one; None if it is short."""
    started = [step for step in timeline.steps if step.start_ms is not None]
    first = last = timeline.total_ms
    if started:
        first, last = started[0].start_ms or 0.0, min(last, started[-1].end_ms)
    took_ms = first + timeline.total_ms - last
    if took_ms < 1:
        return None
    start, begin, end = ruler.cell(0.0), ruler.cell(first), ruler.cell(last)
    rest = ruler.cell(timeline.total_ms) - end
    drawn = " " * start + signs.waited * (begin - start) + " " * (end - begin) + signs.waited * rest
    return _line("hand-over", f"{took_ms:.0f} ms", Text(drawn, "dim"))


def _bar(step: Step, ruler: Ruler, signs: _Signs) -> Text:
    start_ms = step.start_ms or 0.0
    first = ruler.cell(start_ms)
    waited = ruler.cell(start_ms - step.waited_ms)
    bar = Text(" " * waited + signs.waited * (first - waited))
    failed = step.outcome in {"timeout", "error"}
    length = min(ruler.length(step.duration_ms), ruler.cells - first)
    whole = signs.bar * length if length else signs.moment
    if failed:
        whole = signs.bar * (length - 1) + signs.failed
    bar.append(whole, rows.STYLES.get(step.outcome, ""))
    limit = ruler.cell(start_ms + step.limit_ms)
    if step.limit_ms and limit > bar.cell_len and step.outcome != "timeout":
        bar.append(" " * (limit - bar.cell_len) + signs.limit, "dim")
    return bar


def _note(step: Step) -> Text:
    """What is said beside a bar: the node, why it was called again, how it failed."""
    words = [] if step.kind == AttemptKind.FIRST else [step.kind]
    if step.outcome == "skipped":
        words.append("overtaken" if step.overtaken else "abandoned")
    elif step.outcome != "success":
        words.append(step.error_type or step.outcome)
    if step.offered:
        words.append("offered an answer")
    note = Text(rows.clean(step.node or ""))
    for word in words:
        note.append(", " if note else "").append(rows.clean(word), rows.STYLES.get(step.outcome, ""))
    return note


def _words(first: str, rest: str) -> str:
    return f"{first}: {rows.clean(rest)}" if rest else first
