"""Learns from how queries end: stage limits, circuit breakers, node health, and the state of each lane.

``lane_state`` is the entry point: ``dispatch`` reports every ended query to it and reads routing snapshots
from it. A *policy* is configuration and never changes; *state* is what was learned.

Invariant: what is learned must not cost an answer that would have been in time without it.
"""
