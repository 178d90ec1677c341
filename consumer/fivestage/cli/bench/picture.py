"""Draws a benchmark as SVG: answers in time and their latency over the load, and the waterfall."""

from __future__ import annotations

from html import escape
from math import floor, log10
from typing import TYPE_CHECKING, Final

from fivestage.cli.bench.figures import Step, percentiles, verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

WIDTH: Final = 720
HEIGHT: Final = 660
LEFT: Final = 90
RIGHT: Final = 30
PANEL: Final = 190
TOPS: Final = (60, 310)
WATERFALL_TOP: Final = 560
BAR: Final = 14
TICKS: Final = 4
ROUND: Final = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:#333}.title{font-size:15px;font-weight:600}"
    ".axis{stroke:#999;fill:none}.grid{stroke:#e5e5e5}.ideal{stroke:#bbb;stroke-dasharray:4 4;fill:none}"
    ".line{stroke:#2563eb;stroke-width:2;fill:none}.p99{stroke:#93b4f5;stroke-width:2;fill:none}"
    ".dot{fill:#2563eb}.break{stroke:#dc2626;stroke-dasharray:3 3}"
    ".end{text-anchor:end}.middle{text-anchor:middle}.p50{fill:#2563eb}.p95{fill:#bcd0fb}"
)


def draw(steps: Sequence[Step], *, budget_ms: float, title: str) -> str:
    """Return the picture of all loads, of which there must be one."""
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        _text(LEFT, 28, title, "title"),
        *_in_time(steps),
        *_latency(steps, budget_ms),
        *_waterfall(verdict(steps).best, budget_ms),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _in_time(steps: Sequence[Step]) -> Iterator[str]:
    most = _round_top(max(1.0, *(step.in_time_rate for step in steps)))
    x, y = _scale_x(steps), _scale_y(TOPS[0], most)
    yield from _frame(TOPS[0], most, "answers in time per second", y)
    ideal = min(most, max(step.rate for step in steps))
    yield _line([(x(0.0), y(0.0)), (x(ideal), y(ideal))], "ideal")
    yield from _curve([(x(step.rate), y(step.in_time_rate)) for step in steps])
    found = verdict(steps)
    if found.broke:
        at = x(found.best.rate)
        yield f'<line class="break" x1="{at:.1f}" x2="{at:.1f}" y1="{TOPS[0]}" y2="{TOPS[0] + PANEL}"/>'
        yield _text(at + 6, TOPS[0] + PANEL - 8, f"breaks at about {found.best.rate:.0f}/s")
    yield from _loads(steps, TOPS[0] + PANEL, x)


def _latency(steps: Sequence[Step], budget_ms: float) -> Iterator[str]:
    measured = [(step.rate, percentiles(step.latencies_ms)) for step in steps if step.latencies_ms]
    highest = _round_top(max([budget_ms, *(found["p99"] or 0.0 for _, found in measured)]))
    x, y = _scale_x(steps), _scale_y(TOPS[1], highest)
    yield from _frame(TOPS[1], highest, "ms until the answer: p50, p95 (blue), p99; dashed: the limit", y)
    limit = y(budget_ms)
    yield f'<line class="break" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{limit:.1f}" y2="{limit:.1f}"/>'
    for name, style in (("p50", "ideal"), ("p99", "p99"), ("p95", "line")):
        yield _line([(x(load), y(found[name] or 0.0)) for load, found in measured], style)
    yield from _loads(steps, TOPS[1] + PANEL, x)


def _waterfall(step: Step, budget_ms: float) -> Iterator[str]:
    yield _text(LEFT, WATERFALL_TOP - 10, f"where the time goes at {step.rate:.0f}/s: p50 (dark), p95")
    scale = (WIDTH - LEFT - RIGHT) / max(budget_ms, 1.0)
    at, top = 0.0, WATERFALL_TOP
    for name, values in step.stages_ms.items():
        found = percentiles(values)
        yield _text(LEFT - 8, top + BAR - 2, name, "end")
        for style in ("p95", "p50"):
            wide = min(max((found[style] or 0.0) * scale, 1.0), WIDTH - RIGHT - LEFT - at * scale)
            left = LEFT + at * scale
            yield f'<rect class="{style}" x="{left:.1f}" y="{top}" width="{wide:.1f}" height="{BAR}"/>'
        at = min(at + (found["p50"] or 0.0), budget_ms)
        top += BAR + 5


def _scale_x(steps: Sequence[Step]) -> Callable[[float], float]:
    most = max(step.rate for step in steps)
    return lambda value: LEFT + value / most * (WIDTH - LEFT - RIGHT)


def _scale_y(top: int, most: float) -> Callable[[float], float]:
    return lambda value: top + PANEL - value / most * PANEL


def _round_top(most: float) -> float:
    """Return the end of an axis, so that its ticks have round values."""
    scale = 10.0 ** floor(log10(most / TICKS))
    return TICKS * scale * next(step for step in ROUND if TICKS * scale * step >= most)


def _frame(top: int, most: float, label: str, y: Callable[[float], float]) -> Iterator[str]:
    yield _text(LEFT, top - 8, label)
    for number in range(TICKS + 1):
        value = most * number / TICKS
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        yield _text(LEFT - 8, y(value) + 4, f"{value:.10g}", "end")


def _loads(steps: Sequence[Step], bottom: int, x: Callable[[float], float]) -> Iterator[str]:
    """Label the x axis with the loads, where there is room."""
    free_from = 0.0
    for step in steps:
        at = x(step.rate)
        if at >= free_from:
            yield _text(at, bottom + 16, f"{step.rate:.0f}/s", "middle")
            free_from = at + 60


def _curve(points: Sequence[tuple[float, float]]) -> Iterator[str]:
    yield _line(points, "line")
    yield from (f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points)


def _line(points: Sequence[tuple[float, float]], style: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{style}" points="{path}"/>'


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
