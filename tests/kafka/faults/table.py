"""``make faults``: the result of each fault, as a table.

A test has ``@pytest.mark.fault(11)``, and reports figures with ``record_property("killed", 50)``.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from .catalogue import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ORDER = ("failed", "error", "skipped", "passed")
"""Worst first: a fault has the result of its worst test."""


class FaultTable:
    """Collects the results of tests marked with faults.

    Args:
        path: Output file of the table, which is printed too.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._faults: dict[str, list[int]] = {}
        self._outcomes: dict[str, str] = {}
        self._figures: dict[str, dict[str, object]] = defaultdict(dict)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note the faults of each test."""
        for item in items:
            for mark in item.iter_markers("fault"):
                unknown = [number for number in mark.args if number not in FAULTS]
                if unknown or not mark.args:
                    raise pytest.UsageError(f"{item.nodeid}: no such fault {unknown}")
                self._faults.setdefault(item.nodeid, []).extend(mark.args)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the result of a test."""
        if report.nodeid in self._faults:
            worst = self._outcomes.get(report.nodeid, "passed")
            self._outcomes[report.nodeid] = min(worst, report.outcome, key=ORDER.index)
            self._figures[report.nodeid].update(report.user_properties)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the table."""
        lines = list(self._lines())
        terminalreporter.section("faults")
        terminalreporter.write("\n".join(lines) + "\n")
        self._path.write_text("# Faults\n\nPrinted by `make faults`.\n\n" + "\n".join(lines) + "\n")

    def _lines(self) -> Iterator[str]:
        yield "| # | fault | promise | outcome | tests | figures |"
        yield "| ---: | --- | --- | --- | ---: | --- |"
        for number, fault in FAULTS.items():
            tests = [node for node, numbers in self._faults.items() if number in numbers]
            outcomes = [self._outcomes.get(node, "not run") for node in tests]
            worst = min(outcomes, key=[*ORDER, "not run"].index, default="NO TEST")
            figures = {name: value for node in tests for name, value in self._figures[node].items()}
            text = ", ".join(f"{name} {value}" for name, value in figures.items())
            yield f"| {number} | {fault.title} | {fault.promise} | {worst} | {len(tests)} | {text} |"
