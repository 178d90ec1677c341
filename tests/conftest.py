"""Event loops, time limits, and the distribution of tests to processes."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from fivestage.observability.build_info import COMPILED
from fivestage.testing import VirtualTimeLoop
from kafka import sharing
from kafka.faults.table import FaultTable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xdist.remote import Producer

HERE = Path(__file__).parent
VIRTUAL = (HERE / "unit" / "core", HERE / "virtual")
REAL_MARKERS = ("kafka", "broker", "realtime")
LONG_LIMIT_S = 3600
"""The time limit of a test marked ``long``; all others have the one in pyproject.toml."""
WHOLE = ("tests/embedded/", "tests/kafka/", "tests/simulation/", "tests/tools/")
"""Folders whose files are not split among processes: their tests share fixtures that start slowly, or take
long themselves, and whole files come first."""
WAITING = 3
"""More processes than processors: many tests wait most of the time."""

hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, max_examples=100
)
hypothesis.settings.register_profile(
    "no-shrinking",  # for make mutants, which needs a failing example only
    hypothesis.settings.get_profile("repeatable"),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)
hypothesis.settings.load_profile(os.environ.get("FIVESTAGE_TEST_PROFILE", "repeatable"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--fault-table``, ``--part``, ``--long`` and ``--verbs``."""
    parser.addoption("--fault-table", metavar="FILE", help="write the result of each fault, as a table")
    parser.addoption(
        "--part", metavar="K/N", help="run part K (from 0) of N of the tests, and the simulation"
    )
    parser.addoption("--long", action="store_true", help="also run tests that take minutes")
    parser.addoption("--verbs", action="store_true", help="run each long verb of make in its shortest form")


def pytest_xdist_auto_num_workers() -> int:
    """Return the number of processes for ``-n auto``, unless pytest-xdist's own variable sets it."""
    given = os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS")
    return int(given) if given else (os.cpu_count() or 1) + WAITING


class Scheduler(LoadScopeScheduling):
    """Distributes single tests, but whole files where their tests share slow fixtures."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0] if nodeid.startswith(WHOLE) else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduler:
    """Return the scheduler of this project."""
    return Scheduler(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests that a compiled build does not allow, and long ones unless requested."""
    if COMPILED:
        _leave_out("interpreted", config, items)
    if not config.getoption("--long"):
        _leave_out("long", config, items)
    if not config.getoption("--verbs"):
        _leave_out("verb", config, items)
    if part := config.getoption("--part"):
        _leave_out_unless(config, items, lambda item: _is_in_part(item, part))
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.timeout(LONG_LIMIT_S))


def pytest_collection_finish() -> None:
    """Exclude the tests themselves from garbage collection: it takes a twelfth of the CPU of all tests."""
    gc.collect()
    gc.freeze()


def _is_in_part(item: pytest.Item, part: str) -> bool:
    """Return whether a test is in a part such as ``0/2``; the simulation, with its new seeds, is in each."""
    number, count = map(int, part.split("/"))
    return item.nodeid.startswith("tests/simulation/") or crc32(item.nodeid.encode()) % count == number


def _leave_out(marker: str, config: pytest.Config, items: list[pytest.Item]) -> None:
    _leave_out_unless(config, items, lambda item: not item.get_closest_marker(marker))


def _leave_out_unless(
    config: pytest.Config, items: list[pytest.Item], condition: Callable[[pytest.Item], bool]
) -> None:
    config.hook.pytest_deselected(items=[item for item in items if not condition(item)])
    items[:] = [item for item in items if condition(item)]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Disable the run's ``faulthandler_timeout`` for long tests."""
    if item.get_closest_marker("long"):
        faulthandler.dump_traceback_later(1.2 * LONG_LIMIT_S, exit=True, file=2)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what the processes of the run shared."""
    if _starts_others(config):
        sharing.take_away()


def _starts_others(config: pytest.Config) -> bool:
    return bool(config.getoption("numprocesses", None)) and not hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    """Create the fault table where requested, and let child processes react to Ctrl-C."""
    if _starts_others(config):
        sharing.prepare()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # nohup make test &
        signal.signal(signal.SIGINT, _ignore)  # unlike SIG_IGN, children do not inherit this
    _keep_bytecode(config)
    path = config.getoption("--fault-table")
    if path is not None:
        config.pluginmanager.register(FaultTable(Path(path)))


def _keep_bytecode(config: pytest.Config) -> None:
    """Keep bytecode for the many processes that tests start: compiling modules costs each a second.

    Where Python may not write it beside the sources, it is kept in pytest's cache.
    """
    cache: pytest.Cache | None = getattr(config, "cache", None)  # none with -p no:cacheprovider
    if cache is not None and os.environ.get("PYTHONDONTWRITEBYTECODE"):
        del os.environ["PYTHONDONTWRITEBYTECODE"]
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(cache.mkdir("bytecode")))
        sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"]
        sys.dont_write_bytecode = False


def _ignore(_number: int, _frame: object) -> None:
    pass


def pytest_asyncio_loop_factories(
    config: pytest.Config,  # noqa: ARG001
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Choose virtual time for tests/unit/core and tests/virtual, and the real loop for all others."""
    in_virtual_time = any(folder in item.path.parents for folder in VIRTUAL)
    if in_virtual_time and not any(item.get_closest_marker(name) for name in REAL_MARKERS):
        return {"virtual": VirtualTimeLoop}
    return {"real": asyncio.new_event_loop}
