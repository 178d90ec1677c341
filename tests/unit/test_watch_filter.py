"""Which results ``fivestage watch`` shows."""

from __future__ import annotations

import pytest

from fivestage.cli.watch import STATUSES, Filter
from fivestage.core.records import Output
from fivestage_schemas import PipelineResult, PipelineStatus
from support import everything

SOME = frozenset


QUERIES = {
    "success", "stage-timeout", "pipeline-timeout", "degraded", "error", "expired", "offered", "partial",
}  # fmt: skip


@pytest.fixture(scope="module")
def results() -> dict[str, PipelineResult]:
    """Return the results of every kind of query, by their ids."""
    found = [
        PipelineResult.model_validate_json(one.value or b"")
        for one in everything.run().sink.of(Output.RESULTS)
    ]
    return {result.query_id: result for result in found}


@pytest.mark.parametrize(
    ("chosen", "shown"),
    [
        (Filter(), QUERIES),
        (Filter(statuses=SOME({"timeout"})), {"stage-timeout", "pipeline-timeout", "offered"}),
        (Filter(statuses=SOME({"success"})), {"success", "degraded", "partial"}),
        (Filter(statuses=SOME({"degraded", "expired"})), {"degraded", "expired", "partial"}),
        (Filter(statuses=SOME({"partial"})), {"offered", "partial"}),
        (Filter(nodes=SOME({"sleeps"})), {"stage-timeout", "pipeline-timeout"}),
        (Filter(lanes=SOME({"canary"})), set()),
        (Filter(slow_ms=100.0), {"stage-timeout", "offered", "partial"}),
        (
            Filter(statuses=SOME({"timeout"}), slow_ms=100.0, lanes=SOME({"prod"})),
            {"stage-timeout", "offered"},
        ),
    ],
)
def test_filter(results: dict[str, PipelineResult], chosen: Filter, shown: set[str]) -> None:
    """A result is shown if it matches all that is asked for; a degraded one is a success too."""
    assert {name for name in QUERIES if chosen.matches(results[name])} == shown


def test_statuses_are_those_of_results() -> None:
    """The words of ``--status`` are the statuses of results, and the marks of a success."""
    assert set(STATUSES) == {*map(str, PipelineStatus), "degraded", "partial"}
