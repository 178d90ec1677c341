"""The dashboard for Grafana, and the expressions in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from support.documents import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

BOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/fivestage.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = BOARD["panels"]


def expressions() -> Iterator[tuple[str, str]]:
    """The expressions of panels and annotations, with the title above each."""
    for panel in PANELS:
        for target in panel.get("targets", ()):
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for annotation in BOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def filled(expression: str) -> str:
    """An expression as Grafana sends it for all jobs and lanes."""
    return expression.replace("$__rate_interval", "1m").replace("$job", ".+").replace("$lane", ".+")
