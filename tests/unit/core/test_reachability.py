"""The time without reachable brokers."""

from __future__ import annotations

from fivestage.core.reachability import Reachability


def test_unknown_time_does_not_count() -> None:
    """While it is unknown whether brokers are reachable no time counts; then all of it does."""
    reach = Reachability()
    reach.doubt()
    assert reach.waited_s(0.0, 50.0) == 0.0
    reach.found(51.0)
    assert reach.waited_s(0.0, 52.0) == 52.0


def test_an_outage_restarts_the_time() -> None:
    """After an outage, waiting events have their whole time again."""
    reach = Reachability()
    reach.lost()
    reach.doubt()
    assert reach.waited_s(0.0, 599.0) == 0.0
    reach.found(600.0)
    reach.found(610.0)
    assert reach.waited_s(0.0, 630.0) == 30.0
    assert reach.waited_s(620.0, 630.0) == 10.0
