"""Run seeds: ``python -m tests.simulation --runs 100000``, or trace one: ``--seed N --trace``."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import nullcontext

from .planted import PLANTED, planted
from .run import Outcome, quiet, run


def main() -> int:
    """Parse the arguments and run; return 1 when a seed broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds")
    parser.add_argument("--trace", action="store_true", help="print what happened, in virtual seconds")
    parser.add_argument("--plant", choices=PLANTED, help="put a mistake into the real code first")
    parser.add_argument("--stop", action="store_true", help="end with the first seed that fails")
    arguments = parser.parse_args()
    failed, began_at = 0, time.process_time()
    with quiet(), planted(arguments.plant) if arguments.plant else nullcontext():
        for seed in range(arguments.seed, arguments.seed + arguments.runs):
            outcome = run(seed)
            if arguments.trace:
                print(*outcome.events, sep="\n")
            if outcome.violations:
                failed += 1
                report(outcome)
                if arguments.stop:
                    break
    print(f"{arguments.runs} seeds, {failed} failed, {time.process_time() - began_at:.1f} s of CPU")
    return 1 if failed else 0


def report(outcome: Outcome) -> None:
    """Print the broken promises of a seed."""
    print(f"seed {outcome.seed}: {len(outcome.violations)} violations in {outcome.virtual_s:.1f} s")
    for violation in outcome.violations[:5]:
        print(f"    {violation}")


if __name__ == "__main__":
    sys.exit(main())
