"""The report of the long checks."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

from .__main__ import ROOT, VERBS, Run, commit, report

AT = dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC)


def test_the_report_names_commit_and_outcomes() -> None:
    """Each verb has a row with its outcome."""
    runs = [Run("chaos", 0, 90.0), Run("soak", 2, 6.0), Run("bench", None, 7200.0)]
    lines = report(runs, "abc123", AT).splitlines()
    assert lines[2] == "Commit `abc123`, ended 2026-01-02 03:04 UTC (`make long`)."
    assert lines[-3:] == [
        "| `make chaos` | passed | 1.5 |",
        "| `make soak` | failed with 2 | 0.1 |",
        "| `make bench` | did not end | 120.0 |",
    ]


def test_every_long_verb_exists() -> None:
    """Each is a target of the Makefile."""
    targets = re.findall(r"^([a-z-]+):", Path(ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(VERBS) <= set(targets)


def test_the_commit_is_named() -> None:
    """The commit is the checked-out one, or unknown without git."""
    assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?|unknown .*", commit())
