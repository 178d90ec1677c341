"""The routing of lanes, as it is sent to worker processes. Pure."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from fivestage.core.adaptive.breaker import BreakerState
from fivestage.core.routing_snapshot import NodeRouting, RoutingSnapshot, StageRouting, wants_trial
from fivestage.executors.process.frames import Frame, encode
from fivestage.executors.process.messages import ROUTING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_LANES: Final = 256
"""How many lanes' routing a worker keeps; with more it drops them all, and the bus sends them again."""
_HUGE: Final = 1e300
"""Stands for an infinite duration, which JSON does not have."""


def encode_routing(
    lane: str, snapshot: RoutingSnapshot, probes: Iterable[str], trials: Iterable[str] = ()
) -> bytes:
    """ROUTING: the snapshot of a lane, and the *probes* and *trials* that this worker may make."""
    nodes = {
        name: (
            node.state,
            node.score,
            *(None if seconds is None else _finite(seconds) for seconds in node[2:]),
        )
        for name, node in snapshot.nodes.items()
    }
    stages = [[*map(_finite, stage)] for stage in snapshot.stages]
    permits = list(probes), list(trials)
    values = lane, stages, nodes, sorted(snapshot.stuck), *permits, snapshot.max_extra_load
    return encode(ROUTING, 0, values)


def apply_routing(frame: Frame, lanes: dict[str, RoutingSnapshot]) -> tuple[str, ...]:
    """Decode ROUTING into *lanes*; return the half-open nodes that may be called once."""
    lane, stages, nodes, stuck, probes, trials, max_extra_load = frame.values
    limit_lanes(lanes, lane)
    parts = tuple(StageRouting(*stage) for stage in stages)
    known = lanes.setdefault(lane, RoutingSnapshot(parts))
    known.stages = parts
    known.nodes = {
        name: NodeRouting(BreakerState(state), *figures) for name, (state, *figures) in nodes.items()
    }
    known.stuck, known.max_extra_load = frozenset(stuck), max_extra_load
    kept = {**known.probes, **dict.fromkeys(probes, True)}
    known.probes = {name: True for name in kept if known.node(name).state is BreakerState.HALF_OPEN}
    tried = {**known.trials, **dict.fromkeys(trials, True)}
    known.trials = {name: True for name in tried if wants_trial(known.node(name))}
    return tuple(probes)


def limit_lanes(lanes: dict[str, Any], lane: str) -> None:
    """Drop all lanes before *lane* would be one too many; both ends do so at the same frame."""
    if lane not in lanes and len(lanes) >= MAX_LANES:
        lanes.clear()


def _finite(seconds: float) -> float:
    return seconds if isfinite(seconds) else _HUGE
