"""The sliding window of samples."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivestage.core.adaptive.window import Window


def window_of(*seconds: float, size: int = 100) -> Window:
    """Build a window from samples."""
    window = Window(size)
    for sample in seconds:
        window.add(sample)
    return window


def naive_quantile(samples: list[float], percent: int) -> float | None:
    """Return the quantile by nearest rank, in integers."""
    if not samples:
        return None
    rank = -(-percent * len(samples) // 100)
    return sorted(samples)[max(rank, 1) - 1]


SAMPLES = st.tuples(st.sampled_from([0.0, 0.1, 0.2, 0.3]) | st.floats(0, 1e6), st.booleans())


@given(st.integers(1, 12), st.lists(SAMPLES, max_size=60), st.integers(0, 100))
def test_quantiles_equal_those_of_a_sorted_list(
    size: int, samples: list[tuple[float, bool]], percent: int
) -> None:
    """After every sample, quantiles equal those of the last *size* sorted, with equal and censored ones."""
    window, seen = Window(size), list[float]()
    assert window.quantile(percent / 100) is None
    for seconds, censored in samples:
        window.add(seconds, censored=censored)
        seen.append(inf if censored else seconds)
        last = seen[-size:]
        assert len(window) == len(last)
        assert window.quantile(percent / 100) == naive_quantile(last, percent)


@pytest.mark.parametrize("count", [1, 3, 20, 100, 200, 1000])
def test_no_percentile_is_off_by_a_rounding(count: int) -> None:
    """Floats: 0.07 * 100 is above 7, but the rank of each whole percentile is exact."""
    samples = [float(sample) for sample in range(count)]
    window = window_of(*samples, size=count)
    for percent in range(101):
        assert window.quantile(percent / 100) == naive_quantile(samples, percent)


def test_empty() -> None:
    """Without samples there are no quantiles."""
    assert (len(Window(3)), Window(3).quantile(0.5)) == (0, None)


def test_a_quantile_is_a_sample() -> None:
    """By nearest rank the median of two is the lower; 0 and 1 are the smallest and largest."""
    window = window_of(0.4, 0.1)
    assert [window.quantile(q) for q in (0, 0.5, 0.51, 1)] == [0.1, 0.1, 0.4, 0.4]


def test_the_oldest_leaves() -> None:
    """A full window drops the oldest sample."""
    window = window_of(9.0, 1.0, 2.0, size=3)
    assert window.quantile(1) == 9.0
    window.add(0.5)
    assert (len(window), window.quantile(0), window.quantile(1)) == (3, 0.5, 2.0)


def test_censored_is_longer_than_any() -> None:
    """A censored call is longer than any other, whatever its duration."""
    window = window_of(*[5.0] * 18)
    for _ in range(2):
        window.add(0.001, censored=True)
    assert (window.quantile(0), window.quantile(0.9), window.quantile(0.95)) == (5.0, 5.0, inf)
    assert repr(window) == "<Window 20/100 p50=5.0 p95=inf>"


@pytest.mark.parametrize(
    ("samples", "limit_s", "other_s", "rate"),
    [
        ([], 1.0, 0.0, 0.0),
        ([0.1] * 4, 1.0, 0.0, 10.0),
        ([0.1] * 4, 1.0, 0.1, 5.0),
        ([0.1, 0.1, 0.1, 0.9], 0.2, 0.0, 6.0),
        ([0.1, 0.1, 0.1, 0.9], 0.9, 0.0, 4 / 1.2),
        ([0.0, 0.0], 0.1, 0.0, inf),
    ],
)
def test_answers_per_slot_time(samples: list[float], limit_s: float, other_s: float, rate: float) -> None:
    """Answers within the limit per slot time, with that of cut calls."""
    assert window_of(*samples).answers_per_second(limit_s, other_s) == pytest.approx(rate)


def test_cut_calls_give_no_answers() -> None:
    """A censored sample uses the slot until the limit and gives no answer."""
    window = window_of(0.1)
    window.add(0.05, censored=True)
    assert window.answers_per_second(0.3) == pytest.approx(1 / 0.4)


@pytest.mark.parametrize("q", [-0.01, 1.01, 95, float("nan")])
def test_no_such_quantile(q: float) -> None:
    """A share outside 0..1, such as 95 for 0.95, raises even without samples."""
    with pytest.raises(ValueError, match=r"within 0\.\.1"):
        Window(3).quantile(q)


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=60), st.floats(0, 1))
def test_without_bounds_the_weights_change_nothing(samples: list[float], q: float) -> None:
    """A bound above all samples leaves the quantiles below it as if it were censored."""
    bounded, censored = Window(100), Window(100)
    for sample in samples:
        bounded.add(sample)
        censored.add(sample)
    bounded.add_longer_than(11.0)
    censored.add(11.0, censored=True)
    expected = censored.quantile(q)
    assert bounded.quantile(q) == (11.0 if expected == inf else expected)


def test_a_bound_stands_for_the_longer_samples() -> None:
    """Half of four calls were given up after 1.5 s: each of the two that took longer stands for two."""
    window = Window(10)
    for sample in (1.0, 2.0, 3.0, 4.0):
        window.add(sample)
    assert window.quantile(0.5) == 2.0
    for _ in range(4):
        window.add_longer_than(1.5)
    assert [window.quantile(q) for q in (0.125, 0.13, 0.41, 0.42, 0.70, 0.71)] == [
        1.0,
        2.0,
        2.0,
        3.0,
        3.0,
        4.0,
    ]
    assert window.longest == 4.0


def test_only_bounds() -> None:
    """The longest one counts as exact; no sample is known."""
    window = Window(3)
    window.add_longer_than(1.0)
    window.add_longer_than(2.0)
    assert (window.quantile(0.5), window.longest) == (2.0, None)
