"""What expressions for Prometheus select, compared with the metrics that exist."""

from __future__ import annotations

from typing import TYPE_CHECKING

import promql_parser

from fivestage.observability.metric_table import TABLE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fivestage.observability.metric_table.spec import MetricSpec

TARGET = {"job", "instance"}
"""The labels that Prometheus adds."""


def _series_of(spec: MetricSpec) -> Iterable[tuple[str, set[str]]]:
    labels = {*spec.labels} | TARGET
    if spec.kind != "histogram":
        return [(spec.name, labels)]
    named = [(f"{spec.name}_{part}", labels) for part in ("sum", "count")]
    return [*named, (f"{spec.name}_bucket", labels | {"le"})]


SERIES = {name: labels for spec in TABLE for name, labels in _series_of(spec)}
"""The labels of each series that can be scraped."""


def faults_of(expression: str, recorded: dict[str, set[str]]) -> list[str]:
    """Return what an expression names that does not exist.

    Args:
        expression: PromQL.
        recorded: The labels of each series that recording rules make.

    Raises:
        ValueError: it cannot be parsed.
    """
    known = SERIES | recorded | {"up": TARGET}
    faults: list[str] = []
    available: set[str] = set()
    grouped: set[str] = set()

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            labels = known.get(node.name or "")
            if labels is None:
                faults.append(f"no metric {node.name}")
                return
            available.update(labels)
            faults.extend(
                f"{node.name} has no label {one.name}"
                for one in node.matchers.matchers
                if one.name not in labels
            )
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            grouped.update(node.modifier.labels)
        elif isinstance(node, promql_parser.BinaryExpr) and node.modifier and node.modifier.matching:
            grouped.update(node.modifier.matching.labels)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return faults + [f"no metric in it has the label {label}" for label in sorted(grouped - available)]
