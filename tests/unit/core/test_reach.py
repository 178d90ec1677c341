"""What counts as waiting for brokers."""

from __future__ import annotations

from fivestage.core.reachability import Reachability


def test_a_doubt_costs_no_time() -> None:
    """Until it is known whether brokers can be reached nothing counts; then all of it does."""
    reach = Reachability()
    reach.doubt()
    assert reach.waited_s(0.0, 50.0) == 0.0
    reach.found(51.0)
    assert reach.waited_s(0.0, 52.0) == 52.0


def test_an_outage_begins_the_time_again() -> None:
    """What waited through an outage has as long as what is sent at its end."""
    reach = Reachability()
    reach.lost()
    reach.doubt()
    assert reach.waited_s(0.0, 599.0) == 0.0
    reach.found(600.0)
    reach.found(610.0)
    assert reach.waited_s(0.0, 630.0) == 30.0
    assert reach.waited_s(620.0, 630.0) == 10.0
