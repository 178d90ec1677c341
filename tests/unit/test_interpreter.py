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


def test_the_interpreter_is_busy_by_the_cpu_that_is_used() -> None:
    """A process is busy from 96 % of a core in a window on, and stays so to 92 %."""
    cpu_s = 0.0
    use = InterpreterUse(lambda: cpu_s)
    found = []
    for window, share in enumerate([1.0, 0.95, 0.97, 0.93, 0.91, 0.93]):
        cpu_s += share * BUSY_WINDOW_S
        found.append(use.is_busy(1000 + window * BUSY_WINDOW_S * 1.000001))
    assert found == [False, False, True, True, False, False]


def test_use_is_not_measured_over_moments() -> None:
    """Between two windows the last answer holds."""
    cpu_s = 0.0
    use = InterpreterUse(lambda: cpu_s)
    assert not use.is_busy(1000)
    cpu_s = BUSY_WINDOW_S
    assert not use.is_busy(1000 + BUSY_WINDOW_S / 2)
    assert use.is_busy(1000 + BUSY_WINDOW_S * 1.000001)


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
