"""Durations drawn on a ruler, as SVG whose coordinates are percentages, so that it fits any width."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fivestage.observability.page.elements import el

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

STEPS: Final = (1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 5000, 10_000)
MAX_STEPS: Final = 5


class Ruler:
    """Draws on a scale from 0 to *end_ms*; what goes beyond is cut off."""

    def __init__(self, end_ms: float) -> None:
        self.end_ms = max(end_ms, 0.001)
        step = next((step for step in STEPS if end_ms <= step * MAX_STEPS), end_ms)
        self._ticks = [step * number for number in range(int(end_ms / step) + 1)]

    def scale(self) -> Element:
        """Draw the figures above the lines."""
        last = len(self._ticks) - 1
        anchors = {0: "start", last: "end" if self._ticks[-1] >= 0.97 * self.end_ms else "middle"}
        return self._svg(
            "scale",
            *(
                el("text", f"{tick:g}", x=self._at(tick), y="11", text_anchor=anchors.get(number, "middle"))
                for number, tick in enumerate(self._ticks)
            ),
        )

    def row(self, *marks: Element, lines: bool = True) -> Element:
        """Draw the *lines* of the ruler, and *marks* over them."""
        ticks = self._ticks if lines else []
        return self._svg("bars", *(self._line(tick, "grid") for tick in ticks), *marks)

    def bar(self, start_ms: float, duration_ms: float, kind: str) -> Element:
        """Draw a duration; one that is short remains visible."""
        start = min(max(start_ms, 0.0), 0.996 * self.end_ms)
        end = min(start + max(duration_ms, 0.004 * self.end_ms), self.end_ms)
        width = f"{100 * (end - start) / self.end_ms:.2f}%"
        return el("rect", x=self._at(start), width=width, y="25%", height="50%", rx="2", class_=kind)

    def tick(self, at_ms: float) -> Element | None:
        """Mark a limit, unless it is beyond the ruler."""
        return self._line(at_ms, "limit") if at_ms <= self.end_ms else None

    def _line(self, at_ms: float, kind: str) -> Element:
        return el("line", x1=self._at(at_ms), x2=self._at(at_ms), y1="0", y2="100%", class_=kind)

    def _at(self, ms: float) -> str:
        return f"{100 * ms / self.end_ms:.2f}%"

    def _svg(self, kind: str, *children: Element) -> Element:
        return el("svg", *children, class_=kind, aria_hidden="true", focusable="false")
