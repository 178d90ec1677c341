"""Limits how many calls of a node run at a time, on all event loops and threads of a process.

A slot is free again when its code has really ended. That may be long after its query: a coroutine may ignore
its cancellation, and a function in a thread runs on. So the coroutine of a call holds the slot, and so does
each function that it has submitted to the thread pool.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextvars import ContextVar
from typing import Final

running_slot: Final[ContextVar[Slot | None]] = ContextVar("fivestage_slot", default=None)
"""The slot of the code that runs here; None for code without one."""


class CallSlots:
    """The slots of one node.

    Each loop has its own queue of calls, and gives out the free slots itself: one that is blocked takes none.

    Args:
        limit: The number of slots.
    """

    def __init__(self, limit: int) -> None:
        self.limit: Final = limit
        self.taken = 0
        """Changes with ``lock`` held."""
        self.lock: Final = threading.Lock()
        self._queues: dict[asyncio.AbstractEventLoop, deque[Turn]] = {}

    def __repr__(self) -> str:
        return f"<CallSlots {self.taken} of {self.limit} taken>"

    def turn(self) -> Turn:
        """Take a free slot, or else a place in the queue of the running loop."""
        loop = asyncio.get_running_loop()
        turn = Turn(self, loop)
        self._queues.setdefault(loop, deque()).append(turn)
        self._serve(loop)  # after the append: a slot that gets free meanwhile in another thread is not missed
        return turn

    def leave(self, turn: Turn) -> None:
        """Remove a turn from its queue."""
        queue = self._queues.get(turn.loop)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._queues[turn.loop]

    def free(self) -> None:
        """Wake the loops whose calls wait, as a slot is free. From any thread."""
        for loop in tuple(self._queues):
            try:
                loop.call_soon_threadsafe(self._serve, loop)
            except RuntimeError:  # the loop is closed
                self._queues.pop(loop, None)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        queue = self._queues.get(loop)
        while queue and self._fill(queue[0]):
            queue.popleft().ready.set()
        if queue is not None and not queue:
            del self._queues[loop]

    def _fill(self, turn: Turn) -> bool:
        with self.lock:
            if self.taken >= self.limit:
                return False
            self.taken += 1
        turn.slot = Slot(self)
        return True


class Turn:
    """A call that has a slot, or waits for one. Used on its loop."""

    __slots__ = ("_slots", "loop", "ready", "slot")

    def __init__(self, slots: CallSlots, loop: asyncio.AbstractEventLoop) -> None:
        self._slots = slots
        self.loop = loop
        self.slot: Slot | None = None
        self.ready = asyncio.Event()

    async def wait(self) -> None:
        """Wait for a slot, in the order of the turns of this loop."""
        await self.ready.wait()

    def end(self) -> None:
        """The call has ended, or does not wait any more."""
        if self.slot is None:
            self._slots.leave(self)
        else:
            self.slot.release()


class Slot:
    """One slot, taken until everything that holds it has released it. From any thread."""

    __slots__ = ("_holders", "_slots")

    def __init__(self, slots: CallSlots) -> None:
        self._slots = slots
        self._holders = 1

    def __repr__(self) -> str:
        return f"<Slot with {self._holders} holders, {self._slots}>"

    def hold(self) -> None:
        """Keep the slot for further code; code that is late takes it again, beyond the limit if need be."""
        with self._slots.lock:
            self._slots.taken += not self._holders
            self._holders += 1

    def release(self) -> None:
        """Free the slot if nothing else holds it."""
        with self._slots.lock:
            self._holders -= 1
            is_free = not self._holders
            self._slots.taken -= is_free
        if is_free:
            self._slots.free()
