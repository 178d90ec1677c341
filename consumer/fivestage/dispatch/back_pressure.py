"""All valves between the brokers and the executor, in one table.

The valve next to the executor comes first; each holds back the step that the last column names:

====================  =============================  =========================================================
valve                 closes when                    holds back, and where it stands
====================  =============================  =========================================================
local queue           as many queries wait in the    handing over: ``core.admission.slots``
                      executor as end soon
slots                 as many queries run as the     starting: ``core.admission.slots``; queries wait in the
                      learned limit allows           queue of their lane
held bytes            unacknowledged events take     starting: ``core.admission.slots``
                      ``MAX_HELD_BYTES``
memory                these events and received      polling: here
                      records together take
                      ``MAX_HELD_BYTES``
queue                 ``max_waiting`` queries wait   polling: here
                      for a slot
rejections            ``MAX_REMEMBERED`` are not     polling: here; see ``rejections``
                      published
gate                  the limit of unacknowledged    polling: here; opens when a quarter is acknowledged
                      records is reached
pause                 polling was held back for      fetching: ``poller`` pauses the source, but polls it on
                      ``LONG_WAIT_S``                it to stay in the group
key lines             a partition has its share of   reading that partition: ``core.ledger``
                      ``MAX_IN_LINE`` waiting
                      behind keys, or of
                      ``MAX_LINE_BYTES``
uncommitted span      a partition is read            reading that partition: ``core.ledger``
                      ``max_uncommitted_span``
                      ahead of its commit position
====================  =============================  =========================================================

Queries that wait for a thread or behind their key are not in this queue, so queries that need no thread, and
other keys, do not wait for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fivestage.core.admission.gate import Gate

if TYPE_CHECKING:
    from fivestage.dispatch.dispatcher import Dispatcher

MIN_UNFINISHED: Final = 1024
"""Records, at least, that may await acknowledgement, which takes time whatever the number of slots."""
UNFINISHED_PER_SLOT: Final = 4


class BackPressure:
    """The valves that hold back polling.

    Args:
        dispatcher: Owns the records in flight.
        max_in_flight: How many queries may run: a few times as many records are taken in, so that no slot
            stays free because of the source or of acknowledgements.
        max_waiting: How many queries may wait for a slot.
    """

    def __init__(self, dispatcher: Dispatcher, *, max_in_flight: int, max_waiting: int) -> None:
        self._dispatcher = dispatcher
        self._max_waiting = max_waiting
        max_unfinished = max(MIN_UNFINISHED, UNFINISHED_PER_SLOT * max_in_flight, 2 * max_waiting)
        self._gate = Gate(max_unfinished)

    def __repr__(self) -> str:
        return f"<BackPressure {self._gate} of {self._dispatcher}>"

    def has_room(self) -> bool:
        """Return whether all valves are open."""
        dispatcher, slots = self._dispatcher, self._dispatcher.slots
        is_gate_open = self._gate.update(self.unfinished)
        return (
            is_gate_open
            and slots.has_memory
            and slots.waiting < self._max_waiting
            and not dispatcher.rejections.is_full
        )

    def room(self) -> int:
        """Return how many records to poll, at least one."""
        slots = self._dispatcher.slots
        free_slots = max(0, slots.limit - slots.running)
        places = free_slots + self._max_waiting - slots.waiting
        return max(1, min(self._gate.room(self.unfinished), places))

    @property
    def unfinished(self) -> int:
        """Records in flight, without key lines and rejections, which have other bounds."""
        dispatcher = self._dispatcher
        return dispatcher.in_flight - dispatcher.key_lines.length - len(dispatcher.rejections)
