"""The prediction of how long a batch takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivestage.core.batch_cost import BATCHES, MIN_BATCHES, BatchCost


def cost_of(*batches: tuple[int, float]) -> BatchCost:
    """Build a cost that has learned from batches."""
    cost = BatchCost()
    for size, took_s in batches:
        cost.add(size, took_s)
    return cost


@pytest.mark.parametrize(
    ("batches", "size", "predicted_s"),
    [
        ((), 32, 0.0),  # nothing is known
        (((8, 0.02),), 32, 0.02),  # one size says nothing about others
        (((1, 0.0052), (32, 0.0114)), 16, 0.0082),
        (((1, 0.004), (1, 0.006), (3, 0.008), (3, 0.006)), 2, 0.006),
        (((1, 0.02), (10, 0.01)), 20, 0.015),  # larger ones were quicker, which is noise
        (((1, 0.001), (2, 0.006), (4, 0.012)), 0, 0.0),  # never below zero
    ],
)
def test_a_line_is_fitted(batches: tuple[tuple[int, float], ...], size: int, predicted_s: float) -> None:
    """A fixed time and one for each item, neither of them negative."""
    assert cost_of(*batches).predicted_s(size) == pytest.approx(predicted_s)


def test_old_batches_are_forgotten() -> None:
    """Only the last BATCHES count."""
    cost = cost_of((1, 9.0), *[(1, 0.01)] * (BATCHES - 1))
    assert cost.predicted_s(1) > 0.1
    cost.add(1, 0.01)
    assert cost.predicted_s(1) == pytest.approx(0.01)


def test_a_slow_first_batch_makes_no_item_late() -> None:
    """The prediction is certain after a few batches only."""
    cost = cost_of((1, 0.3), *[(1, 0.01)] * (MIN_BATCHES - 2))
    assert (cost.certain_s(1), cost.predicted_s(1) > 0.05) == (0.0, True)
    cost.add(1, 0.01)
    assert cost.certain_s(1) == cost.predicted_s(1) > 0


def test_an_abandoned_batch_counts_if_it_ran_longer_than_predicted() -> None:
    """What was abandoned early says nothing; what ran long corrects a prediction that is too short."""
    cost = cost_of((4, 0.1))
    cost.add_abandoned(4, 0.05)
    assert cost.predicted_s(4) == pytest.approx(0.1)
    cost.add_abandoned(4, 0.3)
    assert cost.predicted_s(4) == pytest.approx(0.2)


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 10)), max_size=80))
def test_predictions_grow_with_the_size(batches: list[tuple[int, float]]) -> None:
    """Whatever it has seen, a prediction is 0 or more, and no less for a larger batch."""
    cost = cost_of(*batches)
    found = [cost.predicted_s(size) for size in range(0, 64, 8)]
    assert found == sorted(found)
    assert found[0] >= 0
