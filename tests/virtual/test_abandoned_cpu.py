"""CPU use of abandoned code: detects threads that together use too much for too long."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from fivestage.executors import abandoned_cpu
from fivestage.executors.abandoned_cpu import CpuUse, thread_busy_s, thread_cpu_s

if TYPE_CHECKING:
    from pathlib import Path

LIMIT_S = 10.0
LOOK_S = 0.5


class Machine:
    """Node threads with the CPU seconds that each has used."""

    def __init__(self) -> None:
        self.use = CpuUse(LIMIT_S)
        self.now = 100.0
        self.used: dict[int, tuple[str, float | None]] = {}

    def run(self, seconds: float, shares: dict[int, float]) -> list[str]:
        """Let time pass with these shares of a core per thread; return the last finding."""
        found: list[str] = []
        for _ in range(round(seconds / LOOK_S)):
            self.now += LOOK_S
            for thread, share in shares.items():
                name, used_s = self.used[thread]
                self.used[thread] = name, (used_s or 0.0) + share * LOOK_S
            found = self.look()
        return found

    def look(self) -> list[str]:
        """Sample once."""
        return self.use.update({(1, thread): used for thread, used in self.used.items()}, self.now)


def machine(*names: str) -> Machine:
    """Build threads 0, 1, ... with abandoned calls of these nodes."""
    found = Machine()
    found.used = {number: (name, 1000.0) for number, name in enumerate(names)}
    found.look()
    return found


def test_a_thread_that_burns() -> None:
    """A thread above half a core is reported after the limit, not before, with its node."""
    one = machine("spins")
    assert one.run(LIMIT_S - LOOK_S, {0: 0.6}) == []
    assert one.run(LOOK_S, {0: 0.6}) == ["spins"]


def test_a_waiting_thread_does_not_count() -> None:
    """Waiting threads, and threads below half a core, are never reported."""
    one = machine("waits", "computes")
    assert one.run(10 * LIMIT_S, {0: 0.0, 1: 0.4}) == []


def test_threads_count_together() -> None:
    """Threads that share the interpreter are added up; idle threads beside them are not named."""
    one = machine("a", "b", "a", "waits")
    assert one.run(LIMIT_S, {0: 0.3, 1: 0.3, 2: 0.3, 3: 0.0}) == ["a", "b"]


def test_many_nodes_that_burn_a_little() -> None:
    """Where no thread has a large share, the nodes with the largest shares are named."""
    one = machine(*(f"node-{number:02}" for number in range(20)))
    found = one.run(LIMIT_S, dict.fromkeys(range(20), 0.05))
    assert found == [f"node-{number:02}" for number in range(20)]


def test_the_time_restarts_after_a_pause() -> None:
    """A call that returns or pauses in time is not reported."""
    one = machine("long")
    assert one.run(LIMIT_S - LOOK_S, {0: 1.0}) == []
    assert one.run(2 * LIMIT_S, {0: 0.0}) == []
    assert one.run(LIMIT_S - LOOK_S, {0: 1.0}) == []
    one.used.clear()
    assert one.run(LOOK_S, {}) == []
    one.used[0] = "long", 2000.0
    assert one.run(LIMIT_S - LOOK_S, {0: 1.0}) == []


def test_calls_that_take_turns() -> None:
    """Calls that replace each other burn together; earlier CPU use of their threads does not count."""
    one = machine("spins")
    for number in range(1, round(LIMIT_S)):
        one.run(1.0, {number - 1: 1.0})
        one.used = {number: ("spins", 5000.0)}
        assert one.look() == []
    assert one.run(2.0, {number: 1.0}) == ["spins"]


def test_a_thread_that_has_ended() -> None:
    """A thread whose CPU time cannot be read does not count."""
    one = machine("ended")
    one.used[0] = "ended", None
    assert one.look() == []


@pytest.mark.realtime
def test_the_cpu_of_a_real_thread() -> None:
    """A real thread's CPU time rises with its computing, includes waits for a core, and ends with it."""
    enough, numbers = threading.Event(), list[int]()

    def spin() -> None:
        numbers.append(threading.get_native_id())
        while not enough.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    while not numbers or (thread_cpu_s((os.getpid(), numbers[0])) or 0.0) < 0.05:
        time.sleep(0.001)
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    used_s = thread_cpu_s((os.getpid(), numbers[0])) or 0.0
    assert (thread_busy_s((os.getpid(), numbers[0])) or 0.0) >= used_s - tick_s
    enough.set()
    thread.join()
    while thread_cpu_s((os.getpid(), numbers[0])) is not None:  # Python's part ends before the kernel's
        time.sleep(0.001)


def test_waiting_for_a_core_counts_as_computing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's figures are nanoseconds on a core, and nanoseconds of waiting for a core."""
    (tmp_path / "1" / "task" / "2").mkdir(parents=True)
    (tmp_path / "1" / "task" / "2" / "schedstat").write_text("250000000 500000000 9\n", encoding="ascii")
    monkeypatch.setattr(abandoned_cpu, "PROC", tmp_path)
    assert thread_busy_s((1, 2)) == pytest.approx(0.75)
