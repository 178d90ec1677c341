"""Decides when a slow call is hedged: another node is called beside it, and the first answer is taken.

The idea is from J. Dean and L. A. Barroso, *The tail at scale* (2013): where few calls are much slower than
the others, a second call after the time that most of them take costs little, and is rarely slow too.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from fivestage.core.adaptive.breaker import BreakerState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fivestage.core.adaptive.window import Window
    from fivestage.core.routing_snapshot import RoutingSnapshot

LEAST_SAMPLES: Final = 100
"""Fewest durations of which the percentile is taken."""
LEAST_S: Final = 0.001
"""A call that is hedged sooner gains nothing: a timer may be as late."""
SHARE_OF_BUDGET: Final = 0.8
"""The share of the permitted extra load that is aimed at. A percentile of a hundred samples is sometimes that
of more calls, and the budget must not be used up by them when a call is really slow."""
_CLOSED: Final = BreakerState.CLOSED


def hedge_after_s(durations: Window, max_extra_load: float) -> float | None:
    """Seconds after which a call is slow: so few calls take longer that the budget suffices for them.

    Where more calls than that do not answer at all, the time of the longest answer; the budget then decides.

    Args:
        durations: Of the node's calls in the lane.
        max_extra_load: The share of calls that may be hedged, 0..1.

    Returns:
        None while there are too few samples, or without an answer among them.
    """
    longest_s = durations.longest if len(durations) >= LEAST_SAMPLES else None
    if longest_s is None:
        return None
    samples = len(durations)
    # The next duration is above the r-th of n with a probability of 1 - r / (n + 1), whatever they are.
    rank = (1 - SHARE_OF_BUDGET * max_extra_load) * (samples + 1) / samples
    slow_s = durations.quantile(min(1.0, rank))
    return max(LEAST_S, min(longest_s, inf if slow_s is None else slow_s))


def candidates(names: Iterable[str], routing: RoutingSnapshot, *, left_s: float) -> Iterator[str]:
    """The nodes that may be called beside a slow one, in the order of *names*.

    Their breakers must be closed: a probe decides alone. And a usual call must fit into *left_s* seconds.
    """
    for name in names:
        is_closed = routing.node(name).state is _CLOSED and name not in routing.stuck
        if is_closed and routing.expected_s(name) <= left_s:
            yield name
