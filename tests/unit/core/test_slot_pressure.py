"""Pressure: whether slots are scarce."""

from __future__ import annotations

from fivestage.core.adaptive.slot_pressure import GAP_S, LASTING_S, PRESSURE_S, Pressure


def pressed(*at_s: float) -> Pressure:
    """Build the pressure of waits at these times."""
    pressure = Pressure()
    for now in at_s:
        pressure.note_wait(now)
    return pressure


def test_waiting_costs_answers_where_it_has_an_end() -> None:
    """Waits cost answers only where a waiting query has a deadline."""
    endless = Pressure()
    times = [10 + place * GAP_S / 2 for place in range(int(2 * LASTING_S / GAP_S) + 2)]
    for now in times:
        endless.note_wait(now, due=False)
    assert endless.is_lasting(times[-1])
    assert not endless.costs_answers(times[-1])
    endless.note_wait(times[-1], due=True)
    assert endless.costs_answers(times[-1] + GAP_S)
    assert not endless.costs_answers(times[-1] + 1.01 * GAP_S)


def test_nothing_has_waited_yet() -> None:
    """There is no pressure at the start."""
    assert not Pressure().is_on(0.0)
    assert not Pressure().is_lasting(0.0)


def test_pressure_lasts_for_a_while_after_each_wait() -> None:
    """Pressure lasts for PRESSURE_S after the last query that had to wait."""
    pressure = pressed(10.0, 10.5)
    assert pressure.is_on(10.5 + PRESSURE_S - 0.001)
    assert not pressure.is_on(10.5 + PRESSURE_S)


def test_a_pause_as_long_as_the_gap_ends_nothing() -> None:
    """Only a pause longer than the gap ends it."""
    assert pressed(0.0, GAP_S, 0.18, 0.26, 0.34, 0.42, LASTING_S).is_lasting(LASTING_S)


def test_a_burst_does_not_last() -> None:
    """It is lasting once queries have waited for LASTING_S without a gap, and only meanwhile."""
    burst = [10 + place * GAP_S / 2 for place in range(int(2 * LASTING_S / GAP_S) + 2)]
    assert not pressed(*burst[:-3]).is_lasting(burst[-4])
    assert pressed(*burst).is_lasting(burst[-1] + GAP_S)
    assert not pressed(*burst).is_lasting(burst[-1] + 1.01 * GAP_S)
    after = burst[-1] + 1.01 * GAP_S
    assert not pressed(*burst, after).is_lasting(after)
