"""The switch interval, which all executors of a process share."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import pytest

from fivestage.executors import interpreter
from fivestage.executors.interpreter import (
    CROWDED_INTERVAL_S,
    SWITCH_INTERVAL_S,
    YIELDING_INTERVAL_S,
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
    ("crowded", "shared", "wanted"),
    [
        (False, False, YIELDING_INTERVAL_S),
        (False, True, SWITCH_INTERVAL_S),
        (True, False, CROWDED_INTERVAL_S),
        (True, True, CROWDED_INTERVAL_S),
    ],
)
def test_what_is_chosen(*, crowded: bool, shared: bool, wanted: float) -> None:
    """The interval is long while all code yields, shorter while some computes, shortest while some spins."""
    interval = SwitchInterval()
    interval.choose(crowded=crowded, shared=shared)
    assert sys.getswitchinterval() == pytest.approx(wanted)
    interval.restore()
    assert sys.getswitchinterval() == pytest.approx(BEFORE_S)


def test_the_shortest_choice_of_several_executors_counts() -> None:
    """An executor without work does not lengthen the interval of one that needs a short one."""
    old, new = SwitchInterval(), SwitchInterval()
    new.choose(crowded=False, shared=True)
    old.choose(crowded=False, shared=False)
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
        interval.choose(crowded=False, shared=False)
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S)
    finally:
        interval.restore()
        ending.set()
        thread.join()
