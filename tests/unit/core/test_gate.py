"""The gate that bounds the records in flight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivestage.core.admission.gate import Gate


@pytest.mark.parametrize(("size", "low"), [(1, 0), (2, 1), (4, 3), (8, 6), (100, 75), (256, 192)])
def test_a_quarter_must_be_free_again(size: int, low: int) -> None:
    """The gate reopens at three quarters of its limit, also for the smallest limits."""
    gate = Gate(size)
    assert not gate.update(size)
    assert (gate.update(low + 1), gate.update(low)) == (False, True)


def test_hysteresis() -> None:
    """The gate closes when full and opens again below a lower threshold."""
    gate = Gate(8)
    story = [(7, True), (8, False), (7, False), (6, True), (7, True), (9, False), (6, True), (0, True)]
    assert [(in_flight, gate.update(in_flight)) for in_flight, _ in story] == story


def test_room() -> None:
    """An open gate has room up to the limit, a closed one has none."""
    gate = Gate(8)
    assert [gate.room(n) for n in (0, 7, 8, 11)] == [8, 1, 0, 0]
    gate.update(8)
    assert gate.room(7) == 0
    assert repr(gate).startswith("<Gate closed")


@given(size=st.integers(1, 300), steps=st.lists(st.integers(-5, 5), max_size=200))
def test_the_gate_never_admits_too_many(size: int, steps: list[int]) -> None:
    """Admitting no more than the room never exceeds the limit, and an empty gate is open."""
    gate, in_flight = Gate(size), 0
    for step in steps:
        gate.update(in_flight)
        room = gate.room(in_flight)
        in_flight = max(0, in_flight + min(step, room))
        assert in_flight <= size
    assert gate.update(0) is True
