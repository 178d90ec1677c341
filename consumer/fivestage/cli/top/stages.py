"""The block that says where the time goes: a waterfall of the stages on a ruler of the budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.text import Text

from fivestage.cli.rows import STYLES
from fivestage.cli.ruler import Ruler
from fivestage.cli.timeline import Timeline
from fivestage.cli.top.words import HEADING, cells, ms, rough

if TYPE_CHECKING:
    from fivestage.observability.status.model import Between, Percentiles, Stage, Status

NAME_CELLS: Final = 15
FIGURES_CELLS: Final = 11
LEAST_RULER: Final = 12
RULER_CELLS: Final = 24
"""From this room for the ruler on, limits and outcomes are beside it."""
NOTE_CELLS: Final = (32, 42)
"""How much room they get, and how much on wide terminals."""
WIDE: Final = 100
SIGNS: Final = ("█", "▒", "┊", "▏")
ASCII_SIGNS: Final = ("#", "-", ":", "|")


def stages(status: Status, width: int, *, unicode: bool) -> list[Text]:
    """Return a line for each stage, after those before it, and one for the whole."""
    budget, latency = status["budget_ms"], status["latency"]
    left = NAME_CELLS + FIGURES_CELLS
    note = NOTE_CELLS[width >= WIDE] + 2
    beside = width - left - note >= RULER_CELLS
    room = max(LEAST_RULER, width - left - (note if beside else 0))
    ruler = Ruler(Timeline([], budget, latency["p95_ms"] or 0.0), room)
    figures = f"{'p50 / p95':>{FIGURES_CELLS - 1}} {ruler.labels()[:room]}"
    lines = [Text.assemble((f"{'WHERE':<{NAME_CELLS}}", HEADING), (figures, "dim"))]
    at = 0.0
    most = max((stage["time_share"] or 0.0 for stage in status["stages"]), default=0.0)
    for stage in status["stages"]:
        bar = _bar(ruler, at, stage, stage["learned_ms"], unicode=unicode)
        lines.append(_line(stage["stage"], stage, bar, room))
        if most and stage["time_share"] == most:
            lines[-1].stylize(HEADING, 0, NAME_CELLS)
        if beside:
            lines[-1].append("  ").append_text(_note(stage))
        at += stage["p50_ms"] or 0.0
    between = status["between"]
    lines.append(_line("between stages", between, _bar(ruler, at, between, None, unicode=unicode), room))
    if beside and between["share"] is not None:
        lines[-1].append(f"  {rough(between['share'])} of the time: waiting for a loop", "dim")
    lines.append(_line("whole", latency, _bar(ruler, 0.0, latency, None, unicode=unicode), room))
    if beside:
        lines[-1].append(f"  p99 {ms(latency['p99_ms'])} ms", "dim")
    return lines


def _line(name: str, of: Stage | Between | Percentiles, bar: Text, room: int) -> Text:
    figures = f"{ms(of['p50_ms'])} / {ms(of['p95_ms'])}"
    return Text(f"{name:<{NAME_CELLS}}{figures:>{FIGURES_CELLS - 1}} ") + cells(bar, room)


def _bar(
    ruler: Ruler, at: float, of: Stage | Between | Percentiles, limit: float | None, *, unicode: bool
) -> Text:
    """Draw p50 solid, p95 behind it, and the limit; all after *at*."""
    solid, ghost, tick, moment = SIGNS if unicode else ASCII_SIGNS
    p50, p95 = ruler.length(of["p50_ms"] or 0.0), ruler.length(of["p95_ms"] or 0.0)
    bar = Text(" " * ruler.cell(at))
    if of["p95_ms"] is not None:
        bar.append(solid * p50 or moment, "blue").append(ghost * (p95 - p50), "dim blue")
    end = ruler.cell(at + limit) if limit is not None else 0
    if end > bar.cell_len:
        bar.append(" " * (end - bar.cell_len) + tick, "dim")
    return bar


def _note(stage: Stage) -> Text:
    """The limit, and how many timed out or failed; skipped stages are a consequence of that."""
    limit, learned = ms(stage["limit_ms"]), ms(stage["learned_ms"])
    note = Text(f"limit {limit}" if limit == learned else f"limit {limit} now {learned}")
    failed = {name: stage["outcomes"].get(name, 0.0) for name in ("timeout", "error")}
    for outcome, found in sorted(failed.items(), key=lambda one: -one[1]):
        if found:
            note.append(f"  {outcome} {rough(found)}", STYLES[outcome])
    return note
