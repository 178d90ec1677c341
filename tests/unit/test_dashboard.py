"""The dashboard for Grafana: its expressions name what exists, and its panels do not overlap."""

from __future__ import annotations

import re

import pytest

from support.dashboard import BOARD, PANELS, expressions, filled
from support.promql import SERIES, faults_of

VARIABLES = {one["name"] for one in BOARD["templating"]["list"]}
WIDTH = 24
ROWS = ["In time", "Where the time goes", "Nodes", "Running and waiting", "Kafka", "Workers", "What changed"]
"""As on the status page."""
NOT_SHOWN = {
    "fivestage_build_info", "fivestage_clock_skew_total", "fivestage_failovers_total",
    "fivestage_hedges_total", "fivestage_late_results_total", "fivestage_position_resets_total",
    "fivestage_refused_events_total", "fivestage_retries_total", "fivestage_shed_total",
    "fivestage_skipped_records_total", "fivestage_throttled_seconds_total", "fivestage_uncommitted_span",
    "fivestage_unfinished",
}  # fmt: skip
"""For a query by hand, when the dashboard shows that something is wrong."""


@pytest.mark.parametrize(("title", "expression"), list(expressions()), ids=lambda text: str(text)[:40])
def test_expressions_name_what_exists(title: str, expression: str) -> None:
    """Each expression parses, and names only metrics, labels and variables that exist."""
    assert faults_of(filled(expression), {}) == [], title
    used = set(re.findall(r"\$\{?(\w+)", expression))
    assert used - VARIABLES - {"__rate_interval"} == set(), title
    assert 'job=~"$job"' in expression, title


def test_labels_in_legends_exist() -> None:
    """A label that a legend or a title shows is one that its expression keeps."""
    for panel in PANELS:
        for target in panel.get("targets", ()):
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                kept = re.findall(r"by \(([^)]*)\)", target["expr"])
                is_plain = not kept and label in {"instance", "topic", "partition"}
                assert is_plain or all(label in one for one in kept), panel["title"]


def test_most_metrics_are_shown() -> None:
    """Each metric is on the dashboard, or listed as one that is not."""
    text = " ".join(expression for _, expression in expressions())
    shown = {name for name in SERIES if re.search(rf"\b{name}\b", text)}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in SERIES}
    missing = {name for name in families if not any(one.startswith(name) for one in shown)}
    assert missing == NOT_SHOWN


def test_the_layout() -> None:
    """The rows are in the order of the status page; panels fit the width, and none overlaps another."""
    assert [panel["title"] for panel in PANELS if panel["type"] == "row"] == ROWS
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= WIDTH
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_everything_comes_from_the_chosen_data_source() -> None:
    """No panel names a data source of some installation."""
    for panel in PANELS:
        for one in [panel, *panel.get("targets", ())] if panel["type"] != "row" else []:
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
