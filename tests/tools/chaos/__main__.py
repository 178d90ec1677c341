"""``make chaos SECONDS=600 SEED=7``: exit code 1 when a promise was broken."""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import sys
import time
from pathlib import Path

from support import preloaded

from .report import markdown
from .runner import Plan, run
from .schedule import schedule

START_AND_END_S = 420
"""The time limit of a run beyond the time of its load."""
OUT = Path(__file__).parents[3] / "docs" / "chaos.md"


def main() -> int:
    """Run, print and write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long queries come in")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000, help="of the schedule")
    parser.add_argument("--rate", type=float, default=60, help="records a second")
    parser.add_argument("--logs", type=Path, help="a folder for the instances' logs")
    parser.add_argument("--out", type=Path, default=OUT, help="where to write the table")
    parser.add_argument("--show", action="store_true", help="print the schedule and end")
    options = parser.parse_args()
    if options.show:
        for step in schedule(options.seed, options.seconds):
            print(f"{step.at_s:7.1f} {step.kind.value}: {step.target}")
        return 0
    if options.logs is not None:
        options.logs.mkdir(parents=True, exist_ok=True)
    os.environ[preloaded.START] = "exec"  # as users start them
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(int(options.seconds + START_AND_END_S))
    faulthandler.dump_traceback_later(options.seconds + 1.5 * START_AND_END_S, exit=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is removed
    print(f"seed {options.seed}, {options.seconds:.0f} s", flush=True)
    outcome = run(Plan(options.seed, options.seconds, options.rate, options.logs))
    text = markdown(outcome)
    print(text)
    print(", ".join(f"{name} {took_s:.0f} s" for name, took_s in outcome.took_s.items()))
    if not outcome.ok:
        print(f"once more: python -m tests.tools.chaos --seconds {options.seconds:.0f} --seed {options.seed}")
    options.out.write_text(text, encoding="utf-8")
    return 0 if outcome.ok else 1


class TooLongError(BaseException):
    """The run did not end. Not an Exception: code that handles a broker's TimeoutError must not catch it."""


def _too_long(*_: object) -> None:
    """End a run that does not end; the exit removes what it started."""
    faulthandler.dump_traceback()
    raise TooLongError(f"the run did not end within {START_AND_END_S} s after its queries")


if __name__ == "__main__":
    sys.exit(main())
