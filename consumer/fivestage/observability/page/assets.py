"""The files of the page."""

from __future__ import annotations

from importlib.resources import files
from typing import Final, NamedTuple


class Asset(NamedTuple):
    """A file as it is served."""

    body: bytes
    content_type: str


def _load(path: str, content_type: str) -> Asset:
    return Asset(files(__package__).joinpath(path).read_bytes(), content_type)


ASSETS: Final = {
    "/page.css": _load("page.css", "text/css"),
    "/page.js": _load("page.js", "text/javascript"),
    "/icon.svg": _load("icon.svg", "image/svg+xml"),
    "/uPlot.min.css": _load("uplot/uPlot.min.css", "text/css"),
    "/uPlot.iife.min.js": _load("uplot/uPlot.iife.min.js", "text/javascript"),
}
