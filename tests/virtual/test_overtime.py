"""Selects workers to replace because code of ended queries uses CPU in them."""

from __future__ import annotations

from fivestage.executors.abandoned_cpu import MEASURE_EVERY_S
from fivestage.executors.process.overtime import COMPUTING_S, MAX_CPU_S, Overtime
from fivestage.pipeline.thread_pool import Abandoned


class Machine:
    """Threads with the CPU time that each has used."""

    def __init__(self) -> None:
        self.used: dict[tuple[int, int], float] = {}
        self.now = 100.0
        self.overtime = Overtime[str](self.used.get)

    def look(self, *calls: tuple[str, str, float, int]) -> list[str]:
        """Return the workers to replace; each call is worker, node, end of its query, thread."""
        self.now += 2 * MEASURE_EVERY_S
        found = [(worker, Abandoned(node, since, (1, thread))) for worker, node, since, thread in calls]
        return self.overtime.too_much(found, self.now)

    def run(self, seconds: float, *threads: int) -> None:
        """Let threads compute."""
        for thread in threads:
            self.used[1, thread] = self.used.get((1, thread), 7.0) + seconds


FIRST, SECOND, OTHER = ("a", "spins", 1.0, 1), ("b", "spins", 2.0, 2), ("c", "loads", 3.0, 3)


def test_one_call_of_each_node_may_compute_on() -> None:
    """The call whose query ended first may compute on: it may load something at a first call."""
    machine = Machine()
    machine.run(0, 1, 2, 3)
    assert machine.look(SECOND, FIRST, OTHER) == []
    machine.run(2 * COMPUTING_S, 1, 2, 3)
    assert machine.look(SECOND, FIRST, OTHER) == ["b"]
    assert machine.look(FIRST, OTHER) == []


def test_code_that_waits_is_left_alone() -> None:
    """A stalled database is no reason to replace a worker."""
    machine = Machine()
    machine.run(0, 1, 2)
    machine.look(FIRST, SECOND)
    machine.run(COMPUTING_S / 2, 1, 2)
    assert machine.look(FIRST, SECOND) == []


def test_the_first_call_may_not_compute_for_ever() -> None:
    """The first call's worker is replaced too once it has used too much."""
    machine = Machine()
    machine.run(0, 1)
    machine.look(FIRST)
    machine.run(MAX_CPU_S - 0.01, 1)
    assert machine.look(FIRST) == []
    machine.run(0.02, 1)
    assert machine.look(FIRST) == ["a"]


def test_earlier_use_of_a_thread_does_not_count() -> None:
    """CPU time that a thread used before the call does not count."""
    machine = Machine()
    machine.run(0, 1)
    machine.look(FIRST)
    machine.run(1.0, 1)
    later = ("a", "spins", 5.0, 1)
    assert machine.look(later, SECOND) == []
    machine.run(0.0, 1, 2)
    assert machine.look(later, SECOND) == []


def test_a_thread_that_has_ended_is_no_more() -> None:
    """Ended threads and code without a thread do not count."""
    machine = Machine()
    assert machine.look(FIRST) == []
    assert machine.overtime.too_much([("a", Abandoned("deaf", 1.0))], machine.now + 1) == []


def test_two_calls_in_one_worker_are_too_many() -> None:
    """Two computing calls in one worker replace it: they slow its other queries."""
    machine = Machine()
    machine.run(0, 1, 2)
    both = FIRST, ("a", "spins", 2.0, 2)
    machine.look(*both)
    machine.run(1.0, 1, 2)
    assert machine.look(*both) == ["a"]
