"""The block that says which node is slow, fails, or is not called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from rich.text import Text

from fivestage.cli.top.words import ALARM, HEADING, cells, duration, ms, rate, rough
from fivestage.observability.status.numbers import clock, place

if TYPE_CHECKING:
    from fivestage.observability.status.model import Node, Status

NAME_CELLS: Final = 14
LEAST_NOTE: Final = 16
FAILS_OFTEN: Final = 0.05
LOW_HEALTH: Final = 0.5


class _Column(NamedTuple):
    heading: str
    width: int
    is_optional: bool = False
    """Left out on narrow terminals."""


COLUMNS: Final = (
    _Column("calls/s", 8, is_optional=True),
    _Column("p50", 6, is_optional=True),
    _Column("p95", 6),
    _Column("failed", 8),
    _Column("health", 7, is_optional=True),
)


def nodes(status: Status, width: int, most: int | None) -> list[Text]:
    """Return at most *most* lines, one for each node: open breakers, then what blocks, then what fails."""
    found = sorted(status["nodes"], key=_order)
    if not found:
        return []
    several = len({node["lane"] for node in found}) > 1
    every = NAME_CELLS + sum(column.width for column in COLUMNS) + LEAST_NOTE
    columns = [column for column in COLUMNS if width >= every or not column.is_optional]
    headings = "".join(f"{column.heading:>{column.width}}" for column in columns)
    lines = [Text.assemble((f"{'NODES':<{NAME_CELLS}}", HEADING), (f"{headings}  breaker", "dim"))]
    shown = found if most is None or len(found) < most else found[: most - 2]
    for node in shown:
        line = cells(_name(node, several=several), NAME_CELLS)
        figures = _figures(node)
        for column in columns:
            line.append_text(cells(figures[column.heading], column.width, right=True))
        lines.append(line.append("  ").append_text(_breaker(node, status["at"])))
    if len(found) > len(shown):
        lines.append(Text(f"and {len(found) - len(shown)} more", "dim"))
    return lines


def _order(node: Node) -> tuple[bool, bool, float]:
    return node["breaker"] == "closed", not node["blocked"], -(node["failed"] or 0.0)


def _name(node: Node, *, several: bool) -> str:
    name = node["node"]
    return f"{name} ({node['lane']})" if several else name


def _figures(node: Node) -> dict[str, Text]:
    failed, health = node["failed"] or 0.0, node["health"]
    return {
        "calls/s": Text(rate(node["calls_per_s"])),
        "p50": Text(ms(node["p50_ms"])),
        "p95": Text(ms(node["p95_ms"])),
        "failed": Text(rough(node["failed"]), "red" if failed > FAILS_OFTEN else ""),
        "health": Text(f"{health:.2f}", "red" if health < LOW_HEALTH else ""),
    }


def _breaker(node: Node, now: str) -> Text:
    """The state of the breaker in words, and what failed last."""
    state, since, retry = node["breaker"], node["breaker_since"], node["retry_in_s"]
    line = Text.assemble((state.replace("_", " "), "dim" if state == "closed" else ALARM))
    if state != "closed" and since is not None:
        line.append(f" since {clock(since, now)}")
    if state == "open" and retry is not None:
        line.append(f", again in {duration(max(0.0, retry))}")
    if node["failing_since"] is not None:
        line.append(f", fails {rough(node['failed'])} since {clock(node['failing_since'], now)}", "red")
    if node["blocked"] and node["blocked_at"] is not None:
        times = f"{node['blocked']} time{'' if node['blocked'] == 1 else 's'}"
        line.append(f"  blocks the loop, {times}, last {clock(node['blocked_at'], now)}", "yellow")
    if node["abandoned"]:
        line.append(f"  {node['abandoned']} abandoned", "yellow")
    failure = node["last_failure"]
    if failure is not None:
        where = f" at {place(failure['where'])}" if failure["where"] else ""
        line.append(f"  {failure['error_type']}{where}, {clock(failure['at'], now)}", "dim")
    return line
