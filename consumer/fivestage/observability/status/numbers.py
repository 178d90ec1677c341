"""Figures as text, each with its unit; a dash where there is none."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

NONE: Final = "\N{EN DASH}"
SPACE: Final = "\N{NO-BREAK SPACE}"
THIN_SPACE: Final = "\N{NARROW NO-BREAK SPACE}"
UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def ms(value: float | None) -> str:
    """Return a duration in milliseconds, or in seconds from ten on."""
    if value is None:
        return NONE
    if value >= 10_000:  # noqa: PLR2004 - ten seconds
        return seconds(value / 1000)
    return f"{_short(value)}{SPACE}ms"


def seconds(value: float | None) -> str:
    """Return a duration in its two largest units, such as ``3 h 12 min``."""
    if value is None:
        return NONE
    left = int(value)
    for (size, unit), (smaller, small_unit) in pairwise(UNITS):
        if left >= size:
            rest = left % size // smaller
            return f"{left // size}{SPACE}{unit}" + (f"{SPACE}{rest}{SPACE}{small_unit}" if rest else "")
    return f"{left}{SPACE}s"


def share(value: float | None) -> str:
    """Return a share as a percentage; it is rounded so that only all of it is 100 %."""
    if value is None:
        return NONE
    percent = 100 * value
    for digits in (1, 2, 3):
        text = f"{percent:.{digits}f}"
        if (percent < 100) == (float(text) < 100) and (percent > 0) == (float(text) > 0):  # noqa: PLR2004
            return f"{text.rstrip('0').rstrip('.')}{SPACE}%"
    return f"{percent:.3f}{SPACE}%"


def rate(value: float) -> str:
    """Return how often per second."""
    return f"{_short(value)}/s"


def count(value: float) -> str:
    """Return a whole number with a space between thousands."""
    return f"{value:,.0f}".replace(",", THIN_SPACE)


def counted(value: int, noun: str) -> str:
    """Return a number with its noun, which gets an s unless the number is 1."""
    return f"{count(value)}{SPACE}{noun}{'' if value == 1 else 's'}"


def clock(at: str, now: str) -> str:
    """Return the time of day, in UTC, of an ISO 8601 time; with the date if *now* is of another day."""
    if len(at) <= 11:  # noqa: PLR2004 - the date and the T
        return at
    return at[11:19] if at[:10] == now[:10] else f"{at[5:10]} {at[11:19]}"


def place(where: str) -> str:
    """Return ``file:line`` without the folders."""
    return where.rpartition("/")[2]


def _short(value: float) -> str:
    if value == 0:
        return "0"
    if value < 0.095:  # noqa: PLR2004 - two digits
        return f"{max(value, 0.01):.2f}"
    return count(value) if value >= 9.95 else f"{value:.1f}"  # noqa: PLR2004 - two digits
