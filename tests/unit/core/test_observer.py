"""Several observers of the same events."""

from __future__ import annotations

from fivestage.core.observer import Observer, fan_out


class Rebalances(Observer):
    """Counts one kind of event."""

    def __init__(self) -> None:
        self.count = 0

    def rebalanced(self) -> None:
        self.count += 1


class Both(Rebalances):
    """Counts two."""

    def shed(self, lane: str, *, refused: bool) -> None:
        assert lane == "prod"
        self.count += 10 + refused


def test_each_observer_gets_what_it_handles() -> None:
    """An event reaches all observers that handle it, with its arguments."""
    first, second = Rebalances(), Both()
    both = fan_out(first, second)
    both.rebalanced()
    both.shed("prod", refused=True)
    both.came_late()
    assert (first.count, second.count) == (1, 12)


def test_one_handler_is_called_directly() -> None:
    """An event that one observer handles costs no more than with it alone."""
    first, second = Rebalances(), Both()
    assert fan_out(first, second).shed == second.shed
