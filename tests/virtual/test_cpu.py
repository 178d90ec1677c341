"""What code that runs on costs: whether threads together use too much CPU for too long."""

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
    """Threads of nodes, each with the CPU seconds that it has used so far."""

    def __init__(self) -> None:
        self.use = CpuUse(LIMIT_S)
        self.now = 100.0
        self.used: dict[int, tuple[str, float | None]] = {}

    def run(self, seconds: float, shares: dict[int, float]) -> list[str]:
        """Let time pass, in which threads get these shares of a core; what the last look finds."""
        found: list[str] = []
        for _ in range(round(seconds / LOOK_S)):
            self.now += LOOK_S
            for thread, share in shares.items():
                name, used_s = self.used[thread]
                self.used[thread] = name, (used_s or 0.0) + share * LOOK_S
            found = self.look()
        return found

    def look(self) -> list[str]:
        """Look once."""
        return self.use.look({(1, thread): used for thread, used in self.used.items()}, self.now)


def machine(*names: str) -> Machine:
    """Threads 0, 1, ... in which code of these nodes runs on; each has run long before."""
    found = Machine()
    found.used = {number: (name, 1000.0) for number, name in enumerate(names)}
    found.look()
    return found


def test_a_thread_that_burns() -> None:
    """More than half a core, until the limit and not before; its node is named."""
    one = machine("spins")
    assert one.run(LIMIT_S - LOOK_S, {0: 0.6}) == []
    assert one.run(LOOK_S, {0: 0.6}) == ["spins"]


def test_what_waits_does_not_burn() -> None:
    """Nor does code that uses less than half a core, however long."""
    one = machine("waits", "computes")
    assert one.run(10 * LIMIT_S, {0: 0.0, 1: 0.4}) == []


def test_threads_count_together() -> None:
    """Those that share the interpreter use a part each; what only waits beside them is not named."""
    one = machine("a", "b", "a", "waits")
    assert one.run(LIMIT_S, {0: 0.3, 1: 0.3, 2: 0.3, 3: 0.0}) == ["a", "b"]


def test_many_nodes_that_burn_a_little() -> None:
    """Where none has a noteworthy share, those that use the most are named."""
    one = machine(*(f"node-{number:02}" for number in range(20)))
    found = one.run(LIMIT_S, dict.fromkeys(range(20), 0.05))
    assert found == [f"node-{number:02}" for number in range(20)]


def test_it_begins_again_after_a_pause() -> None:
    """A call that comes back, or rests, in time is a long one and no more."""
    one = machine("long")
    assert one.run(LIMIT_S - LOOK_S, {0: 1.0}) == []
    assert one.run(2 * LIMIT_S, {0: 0.0}) == []
    assert one.run(LIMIT_S - LOOK_S, {0: 1.0}) == []
    one.used.clear()
    assert one.run(LOOK_S, {}) == []
    one.used[0] = "long", 2000.0
    assert one.run(LIMIT_S - LOOK_S, {0: 1.0}) == []


def test_calls_that_take_turns() -> None:
    """One ends and another takes its place: they burn together, whatever their threads did before."""
    one = machine("spins")
    for number in range(1, round(LIMIT_S)):
        one.run(1.0, {number - 1: 1.0})
        one.used = {number: ("spins", 5000.0)}
        assert one.look() == []
    assert one.run(2.0, {number: 1.0}) == ["spins"]


def test_a_thread_that_has_ended() -> None:
    """What its time was cannot be read: it does not count."""
    one = machine("ended")
    one.used[0] = "ended", None
    assert one.look() == []


@pytest.mark.realtime
def test_the_cpu_of_a_real_thread() -> None:
    """It rises while the thread computes, is no less with its waits for a core, and ends with the thread."""
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
    """The kernel's figures are nanoseconds on a core, and nanoseconds of waiting for one."""
    (tmp_path / "1" / "task" / "2").mkdir(parents=True)
    (tmp_path / "1" / "task" / "2" / "schedstat").write_text("250000000 500000000 9\n", encoding="ascii")
    monkeypatch.setattr(abandoned_cpu, "PROC", tmp_path)
    assert thread_busy_s((1, 2)) == pytest.approx(0.75)
