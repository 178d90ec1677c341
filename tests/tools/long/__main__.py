"""``make long``: run each long verb, one after another, and write the results (docs/long.md)."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[3]
REPORT = ROOT / "docs" / "long.md"
HOUR_S = 3600.0
VERBS = {
    "mutants": "",
    "test-long": "",
    "test-compiled": "",
    "test-pythons": "",
    "verbs": "OPTIONS=--long",
    "faults": "",
    "chaos": "SECONDS=600",
    "soak": "SECONDS=1800",
    "bench-controls": "",
    "bench-hostile": "",
    "bench-ordinary": "",
    "bench-slow": "",
    "bench-overload": "",
    "bench-scale": "",
    "bench-restart": "",
    "bench": "",
}
"""In this order, each with its arguments to make."""


class Run(NamedTuple):
    """The result of a verb."""

    verb: str
    code: int | None
    """Its exit code; None where it did not end in time."""
    seconds: float

    @property
    def outcome(self) -> str:
        """In words."""
        if self.code is None:
            return "did not end"
        return "passed" if self.code == 0 else f"failed with {self.code}"


def main() -> int:
    """Exit code 0 when all verbs passed, else 1."""
    options = _parser().parse_args()
    options.logs.mkdir(parents=True, exist_ok=True)
    name = commit()  # before the runs, which write documents
    runs = [_run(verb, options.logs / f"{verb}.log") for verb in options.verbs.split(",")]
    text = report(runs, name, dt.datetime.now(dt.UTC))
    sys.stdout.write(text)
    options.out.write_text(text, encoding="utf-8")
    return 0 if all(run.code == 0 for run in runs) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make long", description=__doc__)
    parser.add_argument("--verbs", default=",".join(VERBS), help="which of them, separated by commas")
    parser.add_argument(
        "--logs", type=Path, default=ROOT / "build" / "long", help="a folder for their output"
    )
    parser.add_argument("--out", type=Path, default=REPORT, help="where to write the report")
    return parser


def _run(verb: str, log: Path) -> Run:
    started = time.monotonic()
    sys.stderr.write(f"make {verb} {VERBS.get(verb, '')} (output in {log})\n")
    left_out = {"MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES"}  # arguments of make long are not for the verb
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    with log.open("wb") as output:
        make = subprocess.Popen(
            ["make", verb, *VERBS.get(verb, "").split()],
            cwd=ROOT,
            env={"FIVESTAGE_REQUIRE_KAFKA": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = make.wait(2 * HOUR_S)
        except subprocess.TimeoutExpired:
            os.killpg(make.pid, signal.SIGKILL)
            make.wait()
            code = None
    return Run(verb, code, time.monotonic() - started)


def commit() -> str:
    """Return the checked-out commit, and whether files were changed since."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip() or "unknown (no git here)"


def report(runs: list[Run], name: str, at: dt.datetime) -> str:
    """Format a page of Markdown."""
    rows = [f"| `make {run.verb}` | {run.outcome} | {run.seconds / 60:.1f} |" for run in runs]
    heading = f"# The long checks\n\nCommit `{name}`, ended {at:%Y-%m-%d %H:%M} UTC (`make long`).\n"
    return "\n".join([heading, "| verb | outcome | minutes |", "| --- | --- | ---: |", *rows, ""])


if __name__ == "__main__":
    sys.exit(main())
