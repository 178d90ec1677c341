"""Decides who may read the status page and its data, and sends the headers that protect them in a browser.

The page has no password. It is for users of this machine, unless the settings say otherwise; and a page of
another site, opened in a browser on this machine, must not read it: by DNS rebinding such a page reaches the
server under its own name, which the Host header shows.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Collection

    from fivestage.observability.http_server import Handler, Routes

PAGE_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_HOST: Final = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")


_UNKNOWN_HOST: Final = (
    "The Host header is not a name of this server. Use localhost, or name it in admin.allowed_hosts "
    "(FIVESTAGE_ADMIN__ALLOWED_HOSTS)."
)
Refusal = Callable[[web.BaseRequest], str | None]


class PageAccess:
    """Who may read the page and the metrics.

    Args:
        host: ``admin.host``, where the server listens.
        allowed_hosts: ``admin.allowed_hosts``, further names of it.
    """

    def __init__(self, host: str, allowed_hosts: Collection[str] = ()) -> None:
        self._names = {_plain(name) for name in allowed_hosts}
        self._is_open = not _is_wildcard(host) or bool(allowed_hosts)
        """Whether clients on other machines may read it, if they can connect."""
        if not _is_wildcard(host):
            self._names.add(_plain(host))

    def refusal(self, request: web.BaseRequest) -> str | None:
        """Return why a request is refused; None if it is not."""
        name = _host_of(request)
        if name is None or not self._is_known(name):
            return _UNKNOWN_HOST
        if not self._is_open and not _is_loopback(str(request.remote)):
            return (
                "The status page is served to this machine only, because admin.host listens on all "
                "addresses. To serve it to others, list the names that they use for this server in "
                "admin.allowed_hosts (FIVESTAGE_ADMIN__ALLOWED_HOSTS). It has no password."
            )
        site, mode = request.headers.get("Sec-Fetch-Site"), request.headers.get("Sec-Fetch-Mode")
        if site in {"cross-site", "same-site"} and mode != "navigate":
            return "Requests from pages of other sites are refused."
        return None

    def metrics_refusal(self, request: web.BaseRequest) -> str | None:
        """Return why a request for the metrics is refused; None if it is not.

        Scrapers on other machines may use any name, and those behind a proxy on this one any address, which
        no page of another site has as its own.
        """
        if not _is_loopback(str(request.remote)):
            return None
        name = _host_of(request)
        is_served = name is not None and (self._is_known(name) or _address(name) is not None)
        return None if is_served else _UNKNOWN_HOST

    def _is_known(self, name: str) -> bool:
        return name == "localhost" or name in self._names or _is_loopback(name)


def guard(routes: Routes, refusal: Refusal) -> Routes:
    """Return the routes with one of the checks, and with the headers of the page."""
    return {path: _guarded(handler, refusal) for path, handler in routes.items()}


def _guarded(handler: Handler, refusal: Refusal) -> Handler:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        reason = refusal(request)
        refused = reason is not None
        response = web.Response(status=403, text=f"{reason}\n") if refused else await handler(request)
        if not response.prepared:  # a stream has sent them
            response.headers.update(PAGE_HEADERS)
        return response

    return answer


def _host_of(request: web.BaseRequest) -> str | None:
    """Return the name in the only Host header."""
    hosts = request.headers.getall("Host", [])
    found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    return None if found is None else _plain(found["name"])


def _plain(name: str) -> str:
    return name.lower().strip("[]").removesuffix(".")


def _is_loopback(address: str) -> bool:
    found = _address(address)
    return found is not None and found.is_loopback


def _is_wildcard(host: str) -> bool:
    """Whether a socket listens on all addresses: no host, and each spelling of 0, such as ``::``."""
    found = _address(_plain(host))
    if host == "" or (found is not None and found.is_unspecified):
        return True
    try:
        return not any(socket.inet_aton(host))
    except OSError:
        return False


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an address; one of IPv4 that is written as one of IPv6 as what it is."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found
