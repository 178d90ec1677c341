"""Run the gallery: every shape under every load with all controls off, on, and on one at a time.

In virtual time: the same seeds give the same table, on a busy machine too.
"""

from __future__ import annotations

import argparse
import logging
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

import structlog

from .controls_cells import cells, measure
from .controls_loads import LOADS
from .controls_run import COLUMNS
from .controls_shapes import SHAPES
from .controls_tables import publish

if TYPE_CHECKING:
    from .controls_cells import Figures

Task = tuple[str, str, str, int]


def main() -> None:
    """Run all cells; print the table and write docs/bench/controls.*."""
    given = _arguments()
    tasks = [
        (shape, load, column, seed)
        for shape in given.shapes.split(",")
        for load in given.loads.split(",")
        for column in COLUMNS
        for seed in map(int, given.seeds.split(","))
    ]
    found = []
    with ProcessPoolExecutor(given.processes, initializer=_be_quiet) as pool:
        for one in pool.map(_measure, tasks):
            found.append(one)
            print(f"{one.shape}, {one.load}, {one.column}: {one.in_time:.1f} % in time", flush=True)
    publish(cells(found), given.seeds, write_files=not given.dry)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-controls", description=__doc__)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--loads", default=",".join(LOADS))
    parser.add_argument("--seeds", default="1", help="runs of each, of which the mean is taken")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--dry", action="store_true", help="print the table, write no files")
    return parser.parse_args()


def _be_quiet() -> None:
    """Nodes that fail on purpose leave lines in the log."""
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def _measure(task: Task) -> Figures:
    shape, load, column, seed = task
    return measure(SHAPES[shape], LOADS[load], column, seed)


if __name__ == "__main__":
    main()
