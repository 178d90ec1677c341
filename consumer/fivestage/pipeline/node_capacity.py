"""What the calls of a node share in a process: its slots, and its budget of further calls."""

from __future__ import annotations

from typing import Final, NamedTuple

from fivestage.core.extra_load import ExtraLoad
from fivestage.pipeline.call_rules import CallRules
from fivestage.pipeline.call_slots import CallSlots
from fivestage.pipeline.hedges import Hedges


class NodeCapacity(NamedTuple):
    """What the calls of a node share in this process."""

    rules: CallRules
    slots: CallSlots | None
    """None if the node has no limit."""
    extra: ExtraLoad


class NodeCapacities:
    """The capacity of each node with rules, made at its first call. Shared by the loops of a process."""

    def __init__(self) -> None:
        self._capacities: dict[str, NodeCapacity] = {}
        self.hedges: Final = Hedges()

    def __repr__(self) -> str:
        return f"<NodeCapacities {self._capacities}>"

    def of(self, name: str, rules: CallRules, now: float) -> NodeCapacity:
        """The capacity of the node called *name*; another one if the node has been declared again."""
        capacity = self._capacities.get(name)
        if capacity is None or capacity.rules is not rules:
            slots = None if rules.limit is None else CallSlots(rules.limit)
            made = NodeCapacity(rules, slots, ExtraLoad(now))
            if capacity is None:
                return self._capacities.setdefault(name, made)  # another loop may have been quicker
            self._capacities[name] = capacity = made
        return capacity
