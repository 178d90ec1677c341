"""Learned stage limits."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivestage.core.adaptive.stage_limit import AdaptivePolicy, LearnedLimit

WIDE = AdaptivePolicy(floor_ratio=0.1, ceiling_ratio=10.0)
"""Bounds wide enough to have no effect."""


def run(limit: LearnedLimit, took_s: float, times: int) -> None:
    """Run a stage of this duration under the limit."""
    for _ in range(times):
        if took_s > limit.limit_s:
            limit.timed_out(limit.limit_s)
        else:
            limit.succeeded(took_s)


def test_the_configured_limit_until_enough_is_known() -> None:
    """Below min_samples the limit does not move and there is no quantile; after that there are both."""
    limit = LearnedLimit(0.1, AdaptivePolicy(min_samples=50))
    for place in range(49):
        (limit.timed_out if place % 2 else limit.succeeded)(0.02)
        assert (limit.limit_s, limit.p95_s, limit.p50_s) == (0.1, None, None)
        assert not limit.is_learned
    limit.succeeded(0.02)
    assert limit.limit_s > 0.1
    assert (limit.p50_s, limit.is_learned) == (0.02, True)


def test_every_sample_moves_it_part_of_the_way() -> None:
    """The learning rate is the fraction of the distance to headroom times P95 that one sample moves."""
    policy = AdaptivePolicy(min_samples=1, learning_rate=0.25, headroom=2.0)
    limit = LearnedLimit(0.1, policy)
    seen = []
    for _ in range(3):
        limit.succeeded(0.09)
        seen.append(limit.limit_s)
    assert seen == pytest.approx([0.12, 0.135, 0.14625])


def test_one_timeout_does_not_move_it_to_the_ceiling() -> None:
    """Where P95 is censored, the target is the ceiling, and one sample moves its fraction towards it."""
    limit = LearnedLimit(0.1, AdaptivePolicy(min_samples=1, learning_rate=0.25, ceiling_ratio=3.0))
    seen = []
    for _ in range(2):
        limit.timed_out(0.1)
        seen.append(limit.limit_s)
    assert seen == pytest.approx([0.15, 0.1875])


def test_the_limit_follows_p95_not_the_worst() -> None:
    """One call in fifty at ten times the latency has no effect; one in ten has."""
    rare, common = LearnedLimit(0.1, WIDE), LearnedLimit(0.1, WIDE)
    for place in range(400):
        rare.succeeded(0.3 if place % 50 == 0 else 0.03)
        common.succeeded(0.3 if place % 10 == 0 else 0.03)
    assert rare.limit_s == pytest.approx(1.5 * 0.03)
    assert common.limit_s == pytest.approx(1.5 * 0.3)


@pytest.mark.parametrize(("took_s", "learned_s"), [(0.001, 0.05), (0.06, 0.09), (0.19, 0.285), (5.0, 0.3)])
def test_bounds_around_the_configured_limit(took_s: float, learned_s: float) -> None:
    """The limit stays within half and three times the configured one, at any latency."""
    limit = LearnedLimit(0.1, AdaptivePolicy())
    for _ in range(300):
        limit.succeeded(took_s)
    assert limit.limit_s == pytest.approx(learned_s)


def test_timeouts_push_it_up() -> None:
    """More than one timeout in twenty censors P95: the limit moves to the ceiling."""
    limit = LearnedLimit(0.1, AdaptivePolicy())
    for place in range(200):
        (limit.timed_out if place % 10 == 0 else limit.succeeded)(0.01)
    assert limit.limit_s == pytest.approx(0.3)
    assert (limit.p95_s, limit.p50_s) == (limit.limit_s, 0.01)


def test_a_few_timeouts_do_not() -> None:
    """One timeout in fifty is beyond P95: the limit follows the other calls."""
    limit = LearnedLimit(0.1, AdaptivePolicy())
    for place in range(200):
        (limit.timed_out if place % 50 == 0 else limit.succeeded)(0.04)
    assert limit.limit_s == pytest.approx(0.06)


def test_the_limit_returns_after_a_slow_phase() -> None:
    """From 20 ms to 200 ms and back, the limit is 1.5 times the latency each time."""
    limit, seen = LearnedLimit(0.1, WIDE), []
    for took_s in (0.02, 0.2, 0.02):
        run(limit, took_s, times=400)
        seen.append(limit.limit_s)
    assert seen == pytest.approx([0.03, 0.3, 0.03])


def test_timeouts_are_censored_samples() -> None:
    """Without timeouts as samples a stage that became slow is cut for ever; with them its limit rises."""
    censored, left_out = LearnedLimit(0.1, WIDE), LearnedLimit(0.1, WIDE)
    for limit in (censored, left_out):
        run(limit, 0.02, times=400)
    for _ in range(400):
        run(censored, 0.2, times=1)
        if left_out.limit_s >= 0.2:  # never: all calls seen to end end within the limit
            left_out.succeeded(0.2)
    assert (left_out.limit_s, censored.limit_s) == pytest.approx((0.03, 0.3))


@pytest.mark.parametrize(
    ("slow_every", "slow_s", "other_s", "gains"),
    [
        (25, 0.1, 0.0, True),  # cutting one in 25 gives a slot a sixth more answers
        (25, 0.1, 0.2, False),  # but not where a query keeps its slot for other work
        (10, 0.1, 0.0, False),  # one in ten is beyond P95: the limit is not lowered
        (25, 0.02, 0.0, False),  # nothing is cut, so nothing is gained
    ],
)
def test_below_the_configured_limit_only_where_answers_are_gained(
    slow_every: int, slow_s: float, other_s: float, *, gains: bool
) -> None:
    """The limit is below the configured one only while slots are scarce and each then gives more answers."""
    limit = LearnedLimit(0.12, AdaptivePolicy())
    for place in range(200):
        limit.succeeded(slow_s if place % slow_every == 0 else 0.005)
    assert limit.in_force_s(scarce=False, other_s=other_s) == max(0.12, limit.limit_s)
    in_force_s = limit.in_force_s(scarce=True, other_s=other_s)
    assert in_force_s == (pytest.approx(0.06) if gains else max(0.12, limit.limit_s))


def test_when_off_only_quantiles_are_learned() -> None:
    """When off, the limit stays as configured, and quantiles are reported up to the limit."""
    limit = LearnedLimit(0.1, AdaptivePolicy(enabled=False))
    for _ in range(100):
        limit.succeeded(0.02)
    assert (limit.limit_s, limit.p95_s, limit.p50_s) == (0.1, 0.02, 0.02)
    for _ in range(200):
        limit.timed_out(0.1)
    assert (limit.limit_s, limit.p95_s, limit.p50_s) == (0.1, 0.1, 0.1)
    assert repr(limit) == "<LearnedLimit 0.1s configured p95=0.1 samples=200>"


def test_repr_shows_the_state() -> None:
    """repr() shows the limit, whether it was learned, and its samples."""
    limit = LearnedLimit(0.1, AdaptivePolicy(min_samples=1, learning_rate=1.0))
    limit.succeeded(0.06)
    assert repr(limit) == "<LearnedLimit 0.09s learned p95=0.06 samples=1>"


POLICIES = st.builds(
    AdaptivePolicy,
    enabled=st.booleans(),
    min_samples=st.integers(1, 5),
    floor_ratio=st.floats(0.01, 1),
    ceiling_ratio=st.floats(1, 20),
    learning_rate=st.floats(0.001, 1) | st.just(1.0),
    window=st.integers(5, 20),
    headroom=st.floats(1, 4),
)
ENDINGS = st.lists(st.tuples(st.booleans(), st.floats(0, 1e3) | st.floats(0, 0.2)), max_size=80)


@given(POLICIES, st.floats(0.001, 100), ENDINGS)
def test_the_bounds_hold_whatever_happens(
    policy: AdaptivePolicy, configured_s: float, endings: list[tuple[bool, float]]
) -> None:
    """For any policy and samples the limit is within its bounds and the quantiles within the limit."""
    limit = LearnedLimit(configured_s, policy)
    for cut, seconds in endings:
        (limit.timed_out if cut else limit.succeeded)(seconds)
        assert configured_s * policy.floor_ratio <= limit.limit_s <= configured_s * policy.ceiling_ratio
        if limit.p95_s is not None and limit.p50_s is not None:
            assert limit.p50_s <= limit.p95_s <= limit.limit_s
        if not policy.enabled:
            assert limit.limit_s == configured_s


def test_no_rounding_leaves_the_bounds() -> None:
    """Floats: 1.171 + (1.171 * 3.02 - 1.171) is above 1.171 * 3.02, but the limit is not."""
    limit = LearnedLimit(1.171, AdaptivePolicy(min_samples=1, learning_rate=1.0, ceiling_ratio=3.02))
    limit.timed_out(1.0)
    assert limit.limit_s == 1.171 * 3.02


def test_the_policy_is_immutable() -> None:
    """A policy is immutable, so that all stages may share it."""
    name = "enabled"
    with pytest.raises(FrozenInstanceError):
        setattr(AdaptivePolicy(), name, False)
