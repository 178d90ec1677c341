"""The files of the page, and the headers that let a browser run nothing else."""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files
from typing import Final, NamedTuple

CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # ask each time: another version of the service has other files
}


class Asset(NamedTuple):
    """A file as it is served."""

    body: bytes
    content_type: str
    etag: str


def _load(path: str, content_type: str) -> Asset:
    body = files(__package__).joinpath(path).read_bytes()
    return Asset(body, content_type, sha256(body).hexdigest()[:16])


ASSETS: Final = {
    "/page.css": _load("page.css", "text/css"),
    "/page.js": _load("page.js", "text/javascript"),
    "/icon.svg": _load("icon.svg", "image/svg+xml"),
    "/uPlot.min.css": _load("uplot/uPlot.min.css", "text/css"),
    "/uPlot.iife.min.js": _load("uplot/uPlot.iife.min.js", "text/javascript"),
}
