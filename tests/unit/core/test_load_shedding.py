"""Load shedding: rejecting queries that would be answered too late."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivestage.core.adaptive.slot_pressure import GAP_S, PRESSURE_S, Pressure
from fivestage.core.admission.load_shedding import (
    MAX_SHARE,
    P50_MARGIN,
    P95_MARGIN,
    Shedder,
    ShedMode,
    ShedPolicy,
    Verdict,
)
from fivestage.core.deadline import Budget

RUN, OBSERVED, REJECT = Verdict.RUN, Verdict.OBSERVED, Verdict.REJECT


TOTAL_S = 2.0


def shed(policy: ShedPolicy, pressure: Pressure | None = None) -> Shedder:
    """Build a shedder for queries of two seconds."""
    return Shedder(policy, TOTAL_S, pressure or Pressure())


def judge(
    shedder: Shedder, now: float, *, left_s: float, needed_s: float | None, due: bool = True
) -> Verdict:
    """Judge a query with the same median and P95."""
    budget = Budget(now + left_s, left_s, TOTAL_S, due_at=now + left_s if due else None)
    return shedder.judge(budget, lambda _share: needed_s, now)


def verdicts(shedder: Shedder, count: int, *, now: float = 100.0) -> list[Verdict]:
    """Judge a number of queries with 5 ms left of a 20 ms latency."""
    return [judge(shedder, now, left_s=0.005, needed_s=0.02) for _ in range(count)]


@pytest.mark.parametrize(
    ("mode", "left_s", "needed_s", "verdict"),
    [
        (ShedMode.ON, 0.005, 0.02, REJECT),
        (ShedMode.ON, 0.02, 0.02, RUN),
        (ShedMode.ON, 0.005, None, RUN),
        (ShedMode.OBSERVE, 0.005, 0.02, OBSERVED),
        (ShedMode.OBSERVE, 0.03, 0.02, RUN),
        (ShedMode.OFF, 0.005, 0.02, RUN),
    ],
)
def test_the_verdict(mode: ShedMode, left_s: float, needed_s: float | None, verdict: Verdict) -> None:
    """Rejected, observed or run: by mode, remaining time, and known latency."""
    shedder = shed(ShedPolicy(mode, max_share=1.0))
    assert judge(shedder, 0.0, left_s=left_s, needed_s=needed_s) is verdict


@pytest.mark.parametrize(("max_share", "refused"), [(0.95, 95), (0.5, 50), (0.01, 1), (1.0, 100)])
def test_the_cap(max_share: float, refused: int) -> None:
    """The rejected share of hopeless queries stays within the cap."""
    assert verdicts(shed(ShedPolicy(max_share=max_share)), 100).count(REJECT) == refused


def test_the_share_is_of_all_queries_seen() -> None:
    """The cap is a share of all queries: among many good ones all bad ones may be rejected."""
    shedder = shed(ShedPolicy(max_share=0.5))
    for _ in range(50):
        judge(shedder, 100.0, left_s=1.0, needed_s=0.02)
    assert verdicts(shedder, 60) == [REJECT] * 50 + [RUN, REJECT] * 5


def test_the_share_is_of_the_last_seconds() -> None:
    """Queries of ten seconds ago have no effect on the share."""
    shedder = shed(ShedPolicy(max_share=0.5, window_s=10.0))
    for _ in range(100):
        judge(shedder, 100.0, left_s=1.0, needed_s=0.02)
    assert verdicts(shedder, 1, now=109.9) == [REJECT]
    assert verdicts(shedder, 3, now=110.1) == [RUN, RUN, REJECT]  # one of two, then two of four
    assert repr(shedder) == "<Shedder on rejected 2 of 4>"


def test_a_query_with_its_whole_budget_runs() -> None:
    """A query with its whole budget runs, however slow answers are."""
    assert judge(shed(ShedPolicy(max_share=1.0)), 0.0, left_s=TOTAL_S, needed_s=9.9) is RUN


@pytest.mark.parametrize(
    ("likely_s", "even_s", "due", "needed_s"),
    [
        (0.1, 0.05, True, P95_MARGIN * 0.1),
        (0.9, 0.1, True, MAX_SHARE * TOTAL_S),
        (1.8, 1.5, True, P50_MARGIN * 1.5),  # half of them do not make it in half of the time
        (0.1, 0.05, False, 0.1),
    ],
)
def test_the_estimate_is_stricter_while_slots_are_scarce(
    likely_s: float, even_s: float, *, due: bool, needed_s: float
) -> None:
    """The estimate is strict for a second after a wait, stricter while waiting lasts, else lenient."""

    def needs(now: float) -> float:
        """Return the smallest sufficient time, to a millisecond."""
        return next(
            left_ms / 1000
            for left_ms in range(1, 2000)
            if shedder.judge(
                Budget(0.0, left_ms / 1000, TOTAL_S, due_at=0.0 if due else None),
                lambda share: {0.95: likely_s, 0.5: even_s, 0.02: rare_s}[share],
                now,
            )
            is RUN
        )

    rare_s, pressure = 0.01, Pressure()
    shedder = shed(ShedPolicy(max_share=1.0), pressure)
    assert needs(100.0) == pytest.approx(rare_s)
    pressure.note_wait(100.0)
    assert needs(100.0 + PRESSURE_S - 0.01) == pytest.approx(likely_s, abs=0.0011)
    for place in range(20):
        pressure.note_wait(101.0 + place * GAP_S / 2)
    assert needs(101.0 + 10 * GAP_S) == pytest.approx(needed_s, abs=0.0011)
    assert needs(102.0 + PRESSURE_S) == pytest.approx(rare_s)


@given(
    max_share=st.floats(0.01, 1.0),
    story=st.lists(st.tuples(st.floats(0, 3), st.booleans()), min_size=1, max_size=200),
)
def test_the_cap_holds_at_every_rejection(max_share: float, story: list[tuple[float, bool]]) -> None:
    """At every rejection the window's rejections are within the cap."""
    shedder, now = shed(ShedPolicy(max_share=max_share)), 0.0
    for pause_s, short in story:
        now += pause_s
        verdict = judge(shedder, now, left_s=0.0 if short else 1.0, needed_s=0.5)
        assert verdict is RUN or short
        if verdict is REJECT:
            assert shedder._rejected <= max_share * shedder._seen
