"""The tests that ``make test`` runs, as pytest collects them; ``python -m support.collected`` prints them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
LIMIT_S = 300.0


class _Listing:
    """Prints the id of each selected test, with its fault marks."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Print all of them."""
        found = {
            item.nodeid: sorted(number for mark in item.iter_markers("fault") for number in mark.args)
            for item in session.items
        }
        print(f"\n{json.dumps(found)}")  # noqa: T201 - for the process that asked


def collected() -> dict[str, list[int]]:
    """Return all tests by their ids, such as ``tests/x.py::test_y[1]``, with their faults."""
    # without rewriting asserts, which takes most of the time
    command = [sys.executable, "-m", "support.collected", "--assert=plain", "-p", "no:cacheprovider"]
    left_out = ("PYTEST_", "PYTHONDONTWRITEBYTECODE")  # with bytecode it takes half the time
    environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    done = subprocess.run(
        command, cwd=TESTS, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("{")]
    found: dict[str, list[int]] = json.loads(line)
    return found


if __name__ == "__main__":
    sys.exit(pytest.main(["--collect-only", "-qq", *sys.argv[1:], str(TESTS)], plugins=[_Listing()]))
