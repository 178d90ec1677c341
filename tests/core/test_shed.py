"""Refusing what would be answered too late."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivestage.core.shed import Shedder, ShedMode, ShedPolicy, Verdict

RUN, OBSERVED, REFUSE = Verdict.RUN, Verdict.OBSERVED, Verdict.REFUSE


def verdicts(shedder: Shedder, count: int, *, now: float = 100.0) -> list[Verdict]:
    """Judge so many that have 5 ms for what takes 20."""
    return [shedder.judge(now, left_s=0.005, needed_s=0.02) for _ in range(count)]


@pytest.mark.parametrize(
    ("mode", "left_s", "needed_s", "verdict"),
    [
        (ShedMode.ON, 0.005, 0.02, REFUSE),
        (ShedMode.ON, 0.02, 0.02, RUN),
        (ShedMode.ON, 0.005, None, RUN),
        (ShedMode.OBSERVE, 0.005, 0.02, OBSERVED),
        (ShedMode.OBSERVE, 0.03, 0.02, RUN),
        (ShedMode.OFF, 0.005, 0.02, RUN),
    ],
)
def test_the_verdict(mode: ShedMode, left_s: float, needed_s: float | None, verdict: Verdict) -> None:
    """Refused, observed or run: by mode, by what is left, and by what is known to be needed."""
    shedder = Shedder(ShedPolicy(mode, max_share=1.0))
    assert shedder.judge(0.0, left_s=left_s, needed_s=needed_s) is verdict


@pytest.mark.parametrize(("max_share", "refused"), [(0.95, 95), (0.5, 50), (0.01, 1), (1.0, 100)])
def test_the_cap(max_share: float, refused: int) -> None:
    """Of those that should all be refused, no more than the share is."""
    assert verdicts(Shedder(ShedPolicy(max_share=max_share)), 100).count(REFUSE) == refused


def test_the_share_is_of_all_queries_seen() -> None:
    """Those that are run for other reasons count: among many good ones all bad ones may be refused."""
    shedder = Shedder(ShedPolicy(max_share=0.5))
    for _ in range(50):
        shedder.judge(100.0, left_s=1.0, needed_s=0.02)
    assert verdicts(shedder, 60) == [REFUSE] * 50 + [RUN, REFUSE] * 5


def test_the_share_is_of_the_last_seconds() -> None:
    """What was seen ten seconds ago neither permits nor forbids to refuse."""
    shedder = Shedder(ShedPolicy(max_share=0.5))
    for _ in range(100):
        shedder.judge(100.0, left_s=1.0, needed_s=0.02)
    assert verdicts(shedder, 1, now=109.9) == [REFUSE]
    assert verdicts(shedder, 3, now=110.1) == [RUN, RUN, REFUSE]  # one of two, then two of four
    assert repr(shedder) == "<Shedder on refused 2 of 4>"


@given(
    max_share=st.floats(0.01, 1.0),
    story=st.lists(st.tuples(st.floats(0, 3), st.booleans()), min_size=1, max_size=200),
)
def test_the_cap_holds_at_every_refusal(max_share: float, story: list[tuple[float, bool]]) -> None:
    """Whatever comes whenever, each refusal leaves the share of the window's refusals within the cap."""
    shedder, now = Shedder(ShedPolicy(max_share=max_share)), 0.0
    for pause_s, short in story:
        now += pause_s
        verdict = shedder.judge(now, left_s=0.0 if short else 1.0, needed_s=0.5)
        assert verdict is RUN or short
        if verdict is REFUSE:
            assert shedder._refused <= max_share * shedder._seen


@pytest.mark.parametrize("options", [{"max_share": 0.0}, {"max_share": 1.1}, {"window_s": 0.5}])
def test_policies_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    """A share is more than nothing and at most all, and a window has a second at least."""
    with pytest.raises(ValueError, match="0 < max_share <= 1"):
        ShedPolicy(**options)  # type: ignore[arg-type]
