"""The switch interval, which all executors of a process share."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import pytest

from fivestage.executors import interpreter
from fivestage.executors.interpreter import (
    BUSY_WINDOW_S,
    CROWDED_INTERVAL_S,
    SWITCH_INTERVAL_S,
    YIELDING_INTERVAL_S,
    InterpreterUse,
    SwitchInterval,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

BEFORE_S = 0.003


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no thread of the test runner count, and restore the interval."""
    names = tuple(one.name for one in threading.enumerate())
    monkeypatch.setattr(interpreter, "_YIELDING_THREADS", (*names, "fivestage-"))
    before = sys.getswitchinterval()
    sys.setswitchinterval(BEFORE_S)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize(
    ("crowded", "shared", "busy", "wanted"),
    [
        (False, False, True, YIELDING_INTERVAL_S),
        (False, False, False, SWITCH_INTERVAL_S),
        (False, True, True, SWITCH_INTERVAL_S),
        (True, False, True, CROWDED_INTERVAL_S),
        (True, True, True, CROWDED_INTERVAL_S),
    ],
)
def test_what_is_chosen(*, crowded: bool, shared: bool, busy: bool, wanted: float) -> None:
    """The interval is long while a busy process's code yields, shorter otherwise, shortest if some spins."""
    interval = SwitchInterval()
    interval.choose(crowded=crowded, shared=shared, busy=busy)
    assert sys.getswitchinterval() == pytest.approx(wanted)
    assert interval.is_long is (wanted == YIELDING_INTERVAL_S)
    interval.restore()
    assert sys.getswitchinterval() == pytest.approx(BEFORE_S)


class Used:
    """The CPU that the process and its bus have used; the bus half of it."""

    def __init__(self) -> None:
        self.process_s = self.bus_s = 0.0
        self.use = InterpreterUse(lambda: self.process_s, lambda: self.bus_s)
        self._now = 1000.0

    def is_busy_after(self, share: float, bus: float = 0.5, windows: float = 1.000001) -> bool:
        """Use a share of a core, the bus a part of it, and ask."""
        took_s = windows * BUSY_WINDOW_S
        self.process_s += share * took_s
        self.bus_s += share * bus * took_s
        self._now += took_s
        return self.use.is_busy(self._now)


def test_the_interpreter_is_busy_by_the_cpu_that_is_used() -> None:
    """A process is busy from 96 % of a core in a window on, and stays so to 92 %."""
    used = Used()
    found = [used.is_busy_after(share) for share in (1.0, 0.95, 0.97, 0.93, 0.91, 0.93)]
    assert found == [False, False, True, True, False, False]


def test_a_bus_that_computes_alone_is_not_busy_enough() -> None:
    """Where the threads of nodes use less than 15 % of the CPU, turns would be long for nothing."""
    used = Used()
    found = [used.is_busy_after(1.0, bus) for bus in (1.0, 0.86, 0.84, 0.5, 0.9)]
    assert found == [False, False, True, True, False]


def test_use_is_not_measured_over_moments() -> None:
    """Between two windows the last answer holds."""
    used = Used()
    assert not used.is_busy_after(0.0)
    assert not used.is_busy_after(1.0, windows=0.5)
    assert used.is_busy_after(1.0, windows=0.500001)


def test_the_shortest_choice_of_several_executors_counts() -> None:
    """An executor without work does not lengthen the interval of one that needs a short one."""
    old, new = SwitchInterval(), SwitchInterval()
    new.choose(crowded=False, shared=True, busy=True)
    old.choose(crowded=False, shared=False, busy=True)
    assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S)
    new.restore()
    assert sys.getswitchinterval() == pytest.approx(YIELDING_INTERVAL_S)
    old.restore()
    assert sys.getswitchinterval() == pytest.approx(BEFORE_S)


def test_a_thread_of_the_app_may_compute() -> None:
    """While the app has a thread of its own, the interval is not long."""
    ending = threading.Event()
    thread = threading.Thread(target=ending.wait, name="model-loader")
    thread.start()
    interval = SwitchInterval()
    try:
        interval.choose(crowded=False, shared=False, busy=True)
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S)
    finally:
        interval.restore()
        ending.set()
        thread.join()
