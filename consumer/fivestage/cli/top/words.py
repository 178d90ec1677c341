"""Writes figures, times and bars for ``fivestage top``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

UNITS: Final = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
SPARKS: Final = "▁▂▃▄▅▆▇█"
ASCII_SPARKS: Final = "_.-=+*%#"
LEAST_RATE: Final = 0.1
HEADING: Final = "bold"
ALARM: Final = "bold red"


def share(value: float | None, digits: int) -> str:
    """Write a share from 0 to 1 in percent; a dash if it is not known."""
    return "-" if value is None else f"{value * 100:.{digits}f} %"


def rough(value: float | None) -> str:
    """Write a share in percent, with a decimal where it is less than ten."""
    return share(value, 0 if value is not None and value >= 0.1 else 1)  # noqa: PLR2004


def ms(value: float | None) -> str:
    """Write milliseconds without their unit."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 10 or value == round(value) else f"{value:.1f}"  # noqa: PLR2004


def rate(value: float) -> str:
    """Write a rate per second."""
    if 0 < value < LEAST_RATE:
        return f"<{LEAST_RATE:g}"
    return f"{value:.0f}" if value >= 10 or value == round(value) else f"{value:.1f}"  # noqa: PLR2004


def duration(seconds: float) -> str:
    """Write a length of time in at most two units."""
    for length, unit, part, smaller in UNITS:
        if seconds >= length:
            rest = int(seconds % length // part)
            return f"{int(seconds // length)} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def sparkline(values: Sequence[float | None], cells: int, *, unicode: bool) -> str:
    """Draw the last *cells* values between 0 and their maximum; a gap where there is none."""
    signs = SPARKS if unicode else ASCII_SPARKS
    shown = values[-cells:] if cells > 0 else []
    most = max((value for value in shown if value is not None), default=0.0) or 1.0
    drawn = [" " if value is None else signs[int(value / most * (len(signs) - 1) + 0.5)] for value in shown]
    return "".join(drawn)


def headed(name: str, rest: str | Text, style: str = "") -> Text:
    """Put the name of a block before a text."""
    return Text.assemble((f"{name} ", HEADING), Text(rest, style) if isinstance(rest, str) else rest)


def cells(text: str | Text, width: int, *, right: bool = False) -> Text:
    """Cut or fill a text to *width* cells."""
    found = text.copy() if isinstance(text, Text) else Text(text)
    found.truncate(width)
    found.align("right" if right else "left", width)
    return found
