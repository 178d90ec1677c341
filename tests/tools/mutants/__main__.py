"""``make mutants``: plant each mistake, run its tests, and report mistakes that no test catches."""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from .mutant import MutantError, load
from .run import PASSED, Fate, run_all, run_unchanged


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when every planted mistake is caught, 1 when one is not, 2 for wrong use."""
    options = _parser().parse_args(arguments)
    chosen = [mutant for mutant in load() if not options.only or mutant.name in options.only.split(",")]
    if not chosen:
        sys.stderr.write(
            f"no planted mistake is called {options.only}; see tests/tools/mutants/mutants.toml\n"
        )
        return 2
    code, output = run_unchanged(chosen)
    if code != PASSED:
        sys.stderr.write(f"{output}\nwithout any planted mistake these tests must pass\n")
        return 1
    fates: Counter[Fate] = Counter()
    try:
        for verdict in run_all(chosen, options.jobs):
            fates[verdict.fate] += 1
            sys.stdout.write(f"{verdict.fate:9} {verdict.seconds:6.1f} s  {verdict.mutant.name}\n")
            sys.stdout.flush()
            if verdict.fate in (Fate.SURVIVED, Fate.BROKEN):
                sys.stdout.write(f"{verdict.output[-3000:]}\n")
    except MutantError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    caught = fates[Fate.CAUGHT] + fates[Fate.HUNG]
    sys.stdout.write(
        f"{caught} of {len(chosen)} planted mistakes are caught, {fates[Fate.HUNG]} by a time limit\n"
    )
    return 0 if caught == len(chosen) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--only", help="names, separated by commas; all if absent")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    return parser


if __name__ == "__main__":
    sys.exit(main())
