"""Renders the status document: each block of the page, and the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from operator import itemgetter
from typing import Any, Final, NamedTuple
from xml.etree.ElementTree import Element

from fivestage.observability.page import load, nodes, overview, recent, series, stages
from fivestage.observability.page.elements import html
from fivestage.observability.status import attention
from fivestage.observability.status.model import Status


class Block(NamedTuple):
    """A part of the page."""

    render: Callable[[Status], list[Element]]
    reads: Callable[[Status], object]
    """Returns the part of the status that *render* uses."""


def _with_day(*keys: str) -> Callable[[Status], object]:
    """Read these keys and which day it is: times of other days have a date."""
    read = itemgetter(*keys)
    return lambda status: (read(status), status["at"][:10])


def _service(status: Status) -> object:
    return status["service"], status["load"]["assigned"]


def _all(status: Status) -> object:
    return status


BLOCKS: Final[dict[str, Block]] = {
    "service": Block(overview.service, _service),
    "updated": Block(overview.updated, itemgetter("at")),
    "problems": Block(overview.problems, _all),
    "figures": Block(overview.figures, itemgetter("windows", "rates", "latency", "objective", "budget_ms")),
    "series": Block(series.series, itemgetter("series")),
    "stages": Block(stages.stages, itemgetter("stages", "between", "latency", "budget_ms")),
    "nodes": Block(nodes.nodes, _with_day("nodes")),
    "load": Block(load.load, _with_day("load", "lag", "partitions", "workers")),
    "recent": Block(recent.recent, _with_day("recent")),
    "changes": Block(recent.changes, _with_day("events")),
}
"""By the id of the element that contains them."""
_TEMPLATE: Final = files(__package__).joinpath("page.html").read_text(encoding="utf-8")


class Page:
    """Renders what has changed since the last time.

    It takes milliseconds: call it in a thread, one call at a time.
    """

    def __init__(self) -> None:
        self._read: dict[str, Any] = {}
        self._blocks: dict[str, str] = {}

    def blocks(self, status: Status) -> dict[str, str]:
        """Return the HTML of each block, by its id, and the ``title``, which is text.

        What has not changed is the same string as before.
        """
        for name, block in BLOCKS.items():
            read = block.reads(status)
            if name not in self._read or self._read[name] != read:
                self._read[name] = read
                self._blocks[name] = html(*block.render(status))
        self._blocks["title"] = title(status)
        return dict(self._blocks)


def fill(blocks: Mapping[str, str]) -> str:
    """Return the page with its blocks."""
    found = _TEMPLATE
    for name, content in blocks.items():
        found = found.replace(f"<!--{name}-->", content, 1)
    return found


def title(status: Status) -> str:
    """Return what the tab of the browser shows."""
    number = len(attention.problems(status))
    trouble = f"({number}) " if number else ""
    return f"{trouble}{status['service']['state']} · fivestage"
