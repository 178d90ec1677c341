"""What the calls of a node share in a process: its slots, and its budget of further calls."""

from __future__ import annotations

from typing import Final, NamedTuple

from fivestage.core.extra_load import ExtraLoad
from fivestage.pipeline.call_rules import CallRules
from fivestage.pipeline.call_slots import CallSlots
from fivestage.pipeline.hedges import Hedges


class Gate(NamedTuple):
    """What the calls of a node share in this process."""

    rules: CallRules
    slots: CallSlots | None
    """None if the node has no limit."""
    extra: ExtraLoad


class Gates:
    """The gates of the nodes with rules, each made at the first call. Shared by the loops of a process."""

    def __init__(self) -> None:
        self._gates: dict[str, Gate] = {}
        self.hedges: Final = Hedges()

    def __repr__(self) -> str:
        return f"<Gates {self._gates}>"

    def of(self, name: str, rules: CallRules, now: float) -> Gate:
        """The gate of the node called *name*; another one if the node has been declared again."""
        gate = self._gates.get(name)
        if gate is None or gate.rules is not rules:
            slots = None if rules.limit is None else CallSlots(rules.limit)
            made = Gate(rules, slots, ExtraLoad(now))
            if gate is None:
                return self._gates.setdefault(name, made)  # another loop may have been quicker
            self._gates[name] = gate = made
        return gate
