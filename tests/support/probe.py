"""Requests to a running service's admin server."""

from __future__ import annotations

import re
import urllib.error
import urllib.request


def get(port: int, path: str) -> tuple[int, str]:
    """Return status and body of a page."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def metrics(port: int, name: str) -> dict[str, float]:
    """Return the values of a metric by their labels, as in the text format."""
    text = get(port, "/metrics")[1]
    found = re.findall(rf"^{re.escape(name)}(\{{.*?\}})? (\S+)", text, flags=re.MULTILINE)
    return {labels: float(value) for labels, value in found}


def counted(port: int, name: str) -> dict[str, float]:
    """Return the values of a counter that are not 0, by their labels."""
    return {labels: value for labels, value in metrics(port, name).items() if value}
