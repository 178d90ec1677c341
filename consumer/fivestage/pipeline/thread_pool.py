"""A bounded pool of daemon threads for blocking user code.

``concurrent.futures.ThreadPoolExecutor`` joins its threads when the interpreter ends, so one call that never
returns would keep the process alive for ever; threads of this pool are daemons. A call that outlives its
caller is abandoned: it runs on, is listed with the name of its node, and does not count against the pool's
size. Its thread is used again when the call returns. No exception is ever thrown into a thread: it would hit
where ``acquire()`` or ``recv()`` returns, and leak the lock or the pooled connection.
"""

from __future__ import annotations

import asyncio
import functools
import os
import queue
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fivestage.pipeline.call_slots import running_slot
from fivestage.pipeline.running_call import context_of, running_call
from fivestage.pipeline.thread_call import Call

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.pipeline.thread_call import Receiver, ValueOrError

MAX_REPLACED: Final = 64
"""How many threads with abandoned calls are replaced; above that, new calls wait for a free thread."""
FAIR_SHARE: Final = 4
"""While both kinds of calls wait, one in this number of calls that threads take is a parked one."""


class Abandoned(NamedTuple):
    """Code that runs on although its query, or its stage, has ended."""

    name: str
    """The node or stage whose code it is; for other code, where it runs."""
    since: float
    """Monotonic seconds."""
    thread: tuple[int, int] | None = None
    """The process and the kernel's number of the thread that the code occupies; None if it occupies none."""


class ThreadPool:
    """Runs functions for coroutines, at most *size* at a time besides the abandoned ones; others wait.

    Parked calls (``Parked``) may wait, as the time of their queries stands still meanwhile. Other calls come
    first: the limit of a stage that waits in ``asyncio.to_thread``, or for a host's address, goes on.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._wakes: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """True for each call to take; False for each thread to end."""
        self._calls: deque[Call] = deque()
        self._parked: deque[Call] = deque()
        self._taken = 0
        self.lock = threading.Lock()
        self._closed = False
        self._threads = 0
        self._started = 0
        self._running: set[Call] = set()
        self._lost = 0
        """Threads that are busy with abandoned calls."""
        self._unfinished = 0
        """Calls submitted and not ended. Counting these instead of idle threads leaves no moment in which a
        thread that has just taken a call looks free for another."""

    def __repr__(self) -> str:
        return f"<ThreadPool {self.busy} busy of {self._size}, {self._lost} lost>"

    @property
    def busy(self) -> int:
        """How many threads run user code now."""
        return min(self._unfinished, self._threads)

    @property
    def is_full(self) -> bool:
        """Whether a call that is submitted now would wait for a thread."""
        return self._unfinished >= self._size + min(self._lost, MAX_REPLACED)

    def abandoned(self) -> list[Abandoned]:
        """The abandoned calls that threads still run."""
        if not self._lost:
            return []
        with self.lock:
            calls = tuple(self._running)
        found = [(call, call.abandoned_at) for call in calls]
        process = os.getpid()
        return [Abandoned(call.name, at, (process, call.thread)) for call, at in found if at is not None]

    async def run(self, function: Callable[..., Any], *args: Any, name: str = "") -> Any:
        """Call *function* in a thread; return what it returns, raise what it raises. See ``submit``."""
        return await self.submit(function, *args, name=name).wait()

    def submit(self, function: Callable[..., Any], *args: Any, name: str = "", parked: bool = False) -> Call:
        """Queue *function* for a thread, where it runs in the caller's context.

        Args:
            function: The user's function.
            args: Its arguments.
            name: The node or stage whose code it is, for ``abandoned``; by default the one that runs here.
            parked: It may wait: other calls are taken first, three of four while both kinds wait.

        Raises:
            RuntimeError: the pool is closed.
        """
        if self._closed:
            raise RuntimeError("the thread pool is closed")
        running = running_call()
        if not name and running is not None:
            name = running.name
        in_context = context_of(running).run  # the current span, for instance
        call = Call(self, functools.partial(in_context, function, *args), name)
        if (slot := running_slot.get()) is not None:
            slot.hold()
            call.slot = slot
        with self.lock:
            self._unfinished += 1
            (self._parked if parked else self._calls).append(call)
            self._wakes.put(True)
            fresh = self._grown()
        self._start(fresh)
        return call

    def close(self) -> None:
        """End idle threads now, and busy ones after their call. Does not wait."""
        with self.lock:
            self._closed = True
            for _ in range(self._threads):
                self._wakes.put(False)

    def abandon(self, call: Call, receive: Receiver) -> None:
        """Count a call as abandoned if *receive* was what waited for it; drop it if it has not started."""
        fresh = None
        with self.lock:
            if call.receive != receive or call.abandoned_at is not None:
                return
            call.abandoned_at = time.monotonic()
            if call in self._running:
                self._lost += 1
                fresh = self._grown()
            elif not call.started:
                call.function = call.receive = None
        if call.is_dropped and call.slot is not None:
            call.slot.release()
        self._start(fresh)

    def adopt(self, call: Call) -> bool:
        """See ``Call.adopt``; the call does not count as abandoned any more."""
        with self.lock:
            call.receive = None
            if call.abandoned_at is not None:
                self._lost -= call in self._running
                call.abandoned_at = None
            outcome = call.outcome
            return not call.is_dropped and (outcome is None or not asyncio.iscoroutine(outcome[0]))

    def _grown(self) -> threading.Thread | None:
        """Make another thread if there is work for it; called with the lock, to be started without it."""
        replaced = min(self._lost, MAX_REPLACED)
        if self._threads - replaced >= min(self._unfinished - replaced, self._size):
            return None
        self._threads += 1
        self._started += 1
        return threading.Thread(target=self._work, name=f"fivestage-node-{self._started}", daemon=True)

    def _start(self, fresh: threading.Thread | None) -> None:
        """Start a thread. This waits until it runs, which takes a while on a busy machine."""
        if fresh is None:
            return
        try:
            fresh.start()
        except RuntimeError:  # the system gives no more threads: the call waits for one of the pool's
            pass
        finally:
            if fresh.ident is None:
                with self.lock:
                    self._threads -= 1

    def _work(self) -> None:
        thread = threading.get_native_id()
        while self._wakes.get():
            with self.lock:
                call = self._take()
                if call.is_dropped:
                    self._unfinished -= 1
                    continue
                call.thread = thread
                call.started = True
                self._running.add(call)
            outcome = call.run()
            receive, is_superfluous = self._finish(call, outcome)
            if call.slot is not None:
                call.slot.release()
            if receive is not None:
                receive(outcome)
            del call, outcome, receive  # what it has returned or raised is not to live until the next call
            if is_superfluous:
                return
        with self.lock:
            self._threads -= 1

    def _take(self) -> Call:
        """The next call; with the lock, and once for each True in ``_wakes``."""
        self._taken += 1
        parked_is_due = bool(self._parked) and not self._taken % FAIR_SHARE
        return (self._parked if parked_is_due or not self._calls else self._calls).popleft()

    def _finish(self, call: Call, outcome: ValueOrError) -> tuple[Receiver | None, bool]:
        """Record the end of a call. Returns its receiver, and whether its thread should end."""
        with self.lock:
            self._running.discard(call)
            self._unfinished -= 1
            self._lost -= call.abandoned_at is not None
            is_superfluous = self._threads - self._lost > self._size
            self._threads -= is_superfluous
            call.function, call.outcome = None, outcome
            return call.receive, is_superfluous
