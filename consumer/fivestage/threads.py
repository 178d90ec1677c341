"""A bounded pool of daemon threads for blocking user code.

``concurrent.futures.ThreadPoolExecutor`` joins its threads when the interpreter ends, so one stuck node
would keep the process alive for ever. These threads are daemons: what does not return is left behind, and
no longer counts against the pool's size, so that stuck code does not take the threads of the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import functools
import queue
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fivestage import forks
from fivestage.errors import StageInterrupted

if TYPE_CHECKING:
    from collections.abc import Callable

    Listed = dict[threading.Thread, threading.Thread]

INTERRUPT_AFTER_S = 0.1
"""How long a call may run on after its caller has gone before it is interrupted."""
INTERRUPT_EVERY_S = 0.1
MAX_INTERRUPTS = 20
STEPS_TO_STRIKE = 1000
"""Far more than it takes: Python looks for what was thrown whenever it jumps back."""
LOST_START_S = 10.0
"""A thread that takes so long to begin was given up by who was to start it."""
MAX_LOST = 64
"""So many threads with calls nobody waits for are replaced; with more of them new calls wait for a thread."""


class Abandoned(NamedTuple):
    """Code that runs on although its query, or its stage, has ended."""

    name: str
    """The node or stage whose code it is."""
    since: float


class _Call:
    """A call on its way to a thread; one that is cancelled lets go of what it would have run."""

    __slots__ = ("abandoned_at", "function", "future", "interrupts", "loop", "lost", "name", "thread")

    def __init__(self, loop: asyncio.AbstractEventLoop, function: Callable[[], Any], name: str) -> None:
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.function: Callable[[], Any] | None = function
        self.name = name
        self.thread: int | None = None
        """The thread that carries it out, while that may be interrupted."""
        self.abandoned_at: float | None = None
        self.lost = False
        """It was abandoned while a thread carried it out."""
        self.interrupts = 0


class ThreadPool:
    """Runs functions for coroutines, at most *size* at a time; more wait their turn."""

    def __init__(self, size: int, *, name: str = "fivestage-node") -> None:
        self._size = size
        self._name = name
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._threads = 0
        self._started = 0
        self._running: set[_Call] = set()
        self._lost = 0
        """Threads that are busy with calls nobody waits for any more."""
        self._unfinished = 0
        """Calls handed in and not carried out. Counting those, rather than idle threads, leaves no moment in
        which a thread that has just taken a call looks free for another."""

    def __repr__(self) -> str:
        return f"<ThreadPool {self.busy} busy of {self._size}, {self._lost} lost>"

    @property
    def busy(self) -> int:
        """Threads that are running user code now."""
        return min(self._unfinished, self._threads)

    def abandoned(self) -> list[Abandoned]:
        """The calls that run on although nobody waits for them any more."""
        calls = tuple(self._running)
        return [Abandoned(call.name, call.abandoned_at) for call in calls if call.abandoned_at is not None]

    async def run(self, function: Callable[..., Any], *args: Any, name: str = "") -> Any:
        """Call *function* in a thread and wait for what it returns or raises.

        Cancelling the wait frees the caller at once; a call that has begun runs on, one still waiting
        for a thread never begins.

        Args:
            function: The user's function.
            args: Its arguments.
            name: Whose code it is, for ``abandoned``.
        """
        if self._closed:
            raise RuntimeError("the thread pool is closed")
        loop = asyncio.get_running_loop()
        in_context = contextvars.copy_context().run  # the current span, for instance
        call = _Call(loop, functools.partial(in_context, function, *args), name)
        with self._lock:
            self._unfinished += 1
            self._calls.put(call)
            fresh = self._grown()
        self._start(fresh)
        try:
            return await call.future
        except asyncio.CancelledError:
            self._abandon(call, loop.time())
            raise
        finally:
            call.function = None

    def interrupt(self, now: float) -> None:
        """Throw StageInterrupted into threads whose call runs on although it was abandoned a while ago.

        It reaches code in Python, at its next step; code in a C function meets it on return. Called again and
        again, because the code may catch it.
        """
        for call in tuple(self._running):
            due = INTERRUPT_AFTER_S + INTERRUPT_EVERY_S * call.interrupts
            since = call.abandoned_at
            if since is None or now - since < due or call.interrupts >= MAX_INTERRUPTS:
                continue
            if not self._lock.acquire(blocking=False):  # the bus waits for nobody; there is a next time
                return
            try:
                thread = call.thread
                if thread is not None and throw_into(thread):  # it has not come back meanwhile
                    call.interrupts += 1
            finally:
                self._lock.release()

    def close(self) -> None:
        """Let idle threads end, and busy ones after their call. Does not wait."""
        with self._lock:
            self._closed = True
            for _ in range(self._threads):
                self._calls.put(None)

    def _abandon(self, call: _Call, now: float) -> None:
        fresh = None
        with self._lock:
            call.abandoned_at = now
            if call in self._running:
                call.lost = True
                self._lost += 1
                fresh = self._grown()
        self._start(fresh)

    def _grown(self) -> threading.Thread | None:
        """Count one thread more, if there is work for it; with the lock. To be started without it."""
        replaced = min(self._lost, MAX_LOST)
        if self._threads - replaced >= min(self._unfinished - replaced, self._size):
            return None
        self._threads += 1
        self._started += 1
        return threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True)

    def _start(self, fresh: threading.Thread | None) -> None:
        """Start a thread. That waits until it runs, which on a busy machine takes its time."""
        if fresh is None:
            return
        try:
            fresh.start()
        except RuntimeError:  # the system gives no more: the call waits for one of ours
            pass
        finally:
            if fresh.ident is None:
                with self._lock:
                    self._threads -= 1

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            with self._lock:
                self._running.add(call)
                if call.abandoned_at is not None:  # while it waited: it never begins
                    call.function = None
            result, error = self._carry_out(call)
            ends = self._came_back(call)
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
                call.loop.call_soon_threadsafe(_deliver, call.future, result, error)
            if ends:
                return
        with self._lock:
            self._threads -= 1

    def _came_back(self, call: _Call) -> bool:
        """Take note of the end of a call; whether its thread is one too many and should end."""
        fresh = None
        with self._lock:
            self._running.discard(call)
            self._unfinished -= 1
            self._lost -= call.lost
            ends = call.interrupts > 0 or self._threads - self._lost > self._size
            if ends:
                self._threads -= 1
                fresh = self._grown()
        self._start(fresh)
        return ends

    def _carry_out(self, call: _Call) -> tuple[Any, BaseException | None]:
        """Run a call; whatever it is interrupted by strikes in here and nowhere else.

        Python looks for what was thrown into a thread when it calls something, and when it jumps back. So
        there is neither outside of the two ``try``: a loop that begins anew here would have a gap there.
        """
        ended: tuple[Any, BaseException | None] = None, None
        try:
            call.thread = threading.get_ident()
            ended = _run(call)
        except StageInterrupted as interrupted:  # just too late for the code it was meant for
            ended = None, interrupted
        call.thread = None  # nobody throws any more, except who has just looked, with the lock
        try:
            with self._lock:
                thrown = call.interrupts > 0
            if thrown:
                catch_thrown()
        except StageInterrupted:
            pass
        return ended


class Starts:
    """Tells threads that are being started from those whose start was given up.

    Who is interrupted between listing a thread as being started and beginning it leaves it in Python's list,
    and nothing ever takes it out again.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: dict[threading.Thread, float] = {}

    def given_up(self, listed: Listed) -> Listed:
        """Those of the listed that have been there for too long; to be asked again and again."""
        now, seen = self._clock(), self._seen
        self._seen = {thread: seen.get(thread, now) for thread in tuple(listed)}
        return {thread: thread for thread, since in self._seen.items() if now - since > LOST_START_S}


_STARTS: Final = Starts(time.monotonic)


def throw_into(thread: int, exception: type[BaseException] | None = StageInterrupted) -> bool:
    """Have *exception* raised in another thread, at the next step of its Python code; None takes it back.

    Nothing is thrown, and False returned, while any thread is being started: until it runs, Python 3.11 knows
    it by the number of the thread that starts it. It would be hit instead, end unseen, and be waited for by
    the other for ever.
    """
    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc
    number, thrown = ctypes.c_ulong(thread), None if exception is None else ctypes.py_object(exception)
    listed: Listed = threading._limbo  # type: ignore[attr-defined] # noqa: SLF001
    given_up = _STARTS.given_up(listed) if exception is not None else listed
    if listed != given_up:
        return False
    throw(number, thrown)  # nothing is called between the two, so that no other thread gets control there
    return True


def catch_thrown() -> None:
    """Let what was perhaps thrown into this thread strike here and now: it raises StageInterrupted.

    Taking it back leaves the interpreter's flag for it set for good, and Python 3.11 then hangs as soon as
    somebody traces a coroutine, for coverage or with a debugger: it is done only while a thread is being
    started.
    """
    this = threading.get_ident()
    if not throw_into(this):
        throw_into(this, None)
    for _ in range(STEPS_TO_STRIKE):
        pass


def _run(call: _Call) -> tuple[Any, BaseException | None]:
    function, since = call.function, forks.count[0]
    if function is None:  # cancelled before it began
        return None, None
    try:
        return function(), None
    except BaseException as raised:  # noqa: BLE001 - a node may raise anything; the thread must survive
        return None, raised
    finally:
        if forks.count[0] != since:
            forks.end()


def _deliver(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration | GeneratorExit):  # a future refuses one, a task ends on the other
        future.set_exception(RuntimeError(f"the function raised {type(error).__name__}"))
    else:
        future.set_exception(error)
