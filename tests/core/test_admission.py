"""The gate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivestage.core.admission import Gate, InFlightLimit


@pytest.mark.parametrize(("size", "low"), [(1, 0), (2, 1), (4, 3), (8, 6), (100, 75), (256, 192)])
def test_a_quarter_must_be_free_again(size: int, low: int) -> None:
    """The figure at which the gate opens again, also for the smallest limits."""
    assert InFlightLimit.of(size) == InFlightLimit(high=size, low=low)


@pytest.mark.parametrize(("high", "low"), [(0, 0), (5, 5), (5, 6), (5, -1), (-1, -2)])
def test_limits_without_room_are_refused(high: int, low: int) -> None:
    """A gate that could never open or never close cannot be made."""
    with pytest.raises(ValueError, match="0 <= low < high"):
        InFlightLimit(high, low)


def test_hysteresis() -> None:
    """Closes when full, stays closed until there is room again, then opens."""
    gate = Gate(InFlightLimit(high=8, low=6))
    story = [(7, True), (8, False), (7, False), (6, True), (7, True), (9, False), (6, True), (0, True)]
    assert [(in_flight, gate.update(in_flight)) for in_flight, _ in story] == story


def test_room() -> None:
    """There is room up to the limit while the gate is open, and none while it is closed."""
    gate = Gate(InFlightLimit(high=8, low=6))
    assert [gate.room(n) for n in (0, 7, 8, 11)] == [8, 1, 0, 0]
    gate.update(8)
    assert gate.room(7) == 0
    assert repr(gate).startswith("<Gate closed")


@given(size=st.integers(1, 300), steps=st.lists(st.integers(-5, 5), max_size=200))
def test_the_gate_never_lets_too_many_in(size: int, steps: list[int]) -> None:
    """Whoever admits no more than there is room for never exceeds the limit, and an empty gate is open."""
    gate, in_flight = Gate(InFlightLimit.of(size)), 0
    for step in steps:
        gate.update(in_flight)
        room = gate.room(in_flight)
        in_flight = max(0, in_flight + min(step, room))
        assert in_flight <= size
    assert gate.update(0) is True
