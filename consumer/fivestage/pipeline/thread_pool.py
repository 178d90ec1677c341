"""A bounded pool of daemon threads for blocking user code.

``concurrent.futures.ThreadPoolExecutor`` joins its threads when the interpreter ends, so one call that never
returns would keep the process alive for ever. These threads are daemons. A call that outlives its caller is
abandoned: it runs on, is counted by the name of its node, and does not count against the pool's size; its
thread is used again when the call returns. No exception is ever thrown into a thread: it would hit where
``acquire()`` or ``recv()`` returns, and leak the lock or the pooled connection.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import os
import queue
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fivestage.pipeline import fork_guard

if TYPE_CHECKING:
    from collections.abc import Callable

    Outcome = tuple[Any, BaseException | None]
    """What a call returned, or raised."""

MAX_REPLACED: Final = 64
"""So many threads with abandoned calls are replaced; with more of them new calls wait for a free thread."""
FAIR_SHARE: Final = 4
"""One of so many calls that threads take is a parked one, where both kinds wait."""
calling: Final[contextvars.ContextVar[Callable[[], str]]] = contextvars.ContextVar("fivestage_calling")
"""Returns the name of the node or stage that runs in this context, for calls that come without one."""


class Abandoned(NamedTuple):
    """Code that runs on although its query, or its stage, has ended."""

    name: str
    """The node or stage whose code it is; for other code, where it runs."""
    since: float
    """Monotonic seconds."""
    thread: tuple[int, int] | None = None
    """The process and the kernel's number of the thread that the code keeps; None where it keeps none."""


class Call:
    """A function that a thread of the pool runs, and what waits for its result: one coroutine at a time."""

    __slots__ = ("_ended", "_function", "_pool", "_receive", "abandoned_at", "began", "name", "thread")

    def __init__(self, pool: ThreadPool, function: Callable[[], Any], name: str) -> None:
        self._pool = pool
        self._function: Callable[[], Any] | None = function
        self._receive: Callable[[Outcome], None] | None = None
        self._ended: Outcome | None = None
        self.name = name
        self.began = False
        self.thread = 0
        self.abandoned_at: float | None = None

    def __repr__(self) -> str:
        return f"<Call of {self.name} {'running' if self.began and self._ended is None else ''}>"

    async def wait(self) -> Any:
        """Wait for what the function returns or raises; the next caller of this takes over from this one.

        Cancelling the wait abandons the call: one that still waits for a thread never runs.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def receive(outcome: Outcome) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing waits there any more
                loop.call_soon_threadsafe(_deliver, future, outcome)

        self.pass_to(receive)
        try:
            return await future
        except asyncio.CancelledError:
            self.abandon(receive)
            if future.done() and not future.cancelled() and future.exception() is None:
                _close(future.result())
            raise

    def pass_to(self, receive: Callable[[Outcome], None]) -> None:
        """Have the outcome passed to *receive*, in the thread of the call, instead of the receiver so far."""
        with self._pool.lock:
            self._receive = receive
            ended = self._ended
        if ended is not None:
            receive(ended)

    def abandon(self, receive: Callable[[Outcome], None]) -> bool:
        """Drop the outcome, unless another receiver has taken over; whether the function still runs."""
        return self._pool.abandon(self, receive, time.monotonic())

    def adopt(self) -> bool:
        """Wait for it again, on another loop, by the next ``wait``.

        False if it was dropped before it ran, or has returned a coroutine, which that loop awaits.
        """
        return self._pool.reclaim(self)

    def drop(self) -> None:
        """Do not run the function; with the pool's lock, and before it has begun."""
        self._function = self._receive = None

    def is_for(self, receive: Callable[[Outcome], None]) -> bool:
        """Whether that is what waits for the outcome."""
        return self._receive == receive

    def pass_to_none(self) -> None:
        """Keep the outcome for the next ``wait``; with the pool's lock."""
        self._receive = None

    @property
    def can_be_adopted(self) -> bool:
        """Another loop may wait for it; with the pool's lock."""
        ended = self._ended
        return not self.is_dropped and (ended is None or not asyncio.iscoroutine(ended[0]))

    @property
    def is_dropped(self) -> bool:
        """It was abandoned before it began."""
        return self._function is None and not self.began

    def run(self) -> Outcome:
        """Run the function, in a thread of the pool."""
        assert self._function is not None  # noqa: S101 - dropped calls are not run
        return _run(self._function)

    def finish(self, outcome: Outcome) -> Callable[[Outcome], None] | None:
        """Take note of the outcome, with the pool's lock; who is to receive it."""
        self._function = None
        self._ended = outcome
        return self._receive


class ThreadPool:
    """Runs functions for coroutines, at most *size* at a time besides the abandoned ones; more wait.

    Parked calls (``Parked``) can wait, as the time of their queries stands still. The others cannot: the
    limit of a stage that waits in ``asyncio.to_thread``, or for a host's address, goes on. They come first.
    """

    def __init__(self, size: int, *, name: str = "fivestage-node") -> None:
        self._size = size
        self._name = name
        self._wakes: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """True for each call that is to be taken; False where a thread is to end."""
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
        """Calls handed in and not carried out. Counting those, rather than idle threads, leaves no moment in
        which a thread that has just taken a call looks free for another."""

    def __repr__(self) -> str:
        return f"<ThreadPool {self.busy} busy of {self._size}, {self._lost} lost>"

    @property
    def busy(self) -> int:
        """Threads that are running user code now."""
        return min(self._unfinished, self._threads)

    @property
    def is_full(self) -> bool:
        """A call that is handed in now waits for a thread."""
        return self._unfinished >= self._size + min(self._lost, MAX_REPLACED)

    def abandoned(self) -> list[Abandoned]:
        """The calls that run on although their callers have gone, as far as a thread runs them."""
        if not self._lost:
            return []
        with self.lock:
            calls = tuple(self._running)
        found = [(call, call.abandoned_at) for call in calls]
        process = os.getpid()
        return [Abandoned(call.name, at, (process, call.thread)) for call, at in found if at is not None]

    async def run(self, function: Callable[..., Any], *args: Any, name: str = "") -> Any:
        """Call *function* in a thread and wait for what it returns or raises; see ``submit``."""
        return await self.submit(function, *args, name=name).wait()

    def submit(self, function: Callable[..., Any], *args: Any, name: str = "", parked: bool = False) -> Call:
        """Have *function* called in a thread, in the context of the caller.

        Args:
            function: The user's function.
            args: Its arguments.
            name: Whose code it is, for ``abandoned``; by default the node or stage that runs here.
            parked: It can wait: calls that cannot are taken first, three of four where both wait.

        Raises:
            RuntimeError: the pool is closed.
        """
        if self._closed:
            raise RuntimeError("the thread pool is closed")
        if not name and (current := calling.get(None)) is not None:
            name = current()
        in_context = contextvars.copy_context().run  # the current span, for instance
        call = Call(self, functools.partial(in_context, function, *args), name)
        with self.lock:
            self._unfinished += 1
            (self._parked if parked else self._calls).append(call)
            self._wakes.put(True)
            fresh = self._grown()
        self._start(fresh)
        return call

    def close(self) -> None:
        """Let idle threads end, and busy ones after their call. Does not wait."""
        with self.lock:
            self._closed = True
            for _ in range(self._threads):
                self._wakes.put(False)

    def abandon(self, call: Call, receive: Callable[[Outcome], None], now: float) -> bool:
        """Take note that *receive* does not wait for a call any more; whether its function runs on."""
        fresh = None
        with self.lock:
            if not call.is_for(receive):
                return False
            runs_on = call in self._running
            if call.abandoned_at is None:
                call.abandoned_at = now
                if runs_on:
                    self._lost += 1
                    fresh = self._grown()
                elif not call.began:
                    call.drop()
        self._start(fresh)
        return runs_on

    def reclaim(self, call: Call) -> bool:
        """Take note that a call is to be waited for by another one; False if that cannot be."""
        with self.lock:
            call.pass_to_none()
            if call.abandoned_at is not None:
                self._lost -= call in self._running
                call.abandoned_at = None
            return call.can_be_adopted

    def _grown(self) -> threading.Thread | None:
        """Count one thread more, if there is work for it; with the lock. To be started without it."""
        replaced = min(self._lost, MAX_REPLACED)
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
                call.began = True
                self._running.add(call)
            outcome = call.run()
            receive, is_superfluous = self._finish(call, outcome)
            if receive is not None:
                receive(outcome)
            if is_superfluous:
                return
        with self.lock:
            self._threads -= 1

    def _take(self) -> Call:
        """The next call; with the lock, and once for each True in ``_wakes``."""
        self._taken += 1
        parked_is_due = bool(self._parked) and not self._taken % FAIR_SHARE
        return (self._parked if parked_is_due or not self._calls else self._calls).popleft()

    def _finish(self, call: Call, outcome: Outcome) -> tuple[Callable[[Outcome], None] | None, bool]:
        """Take note of the end of a call: what receives it, and whether its thread is one too many."""
        with self.lock:
            self._running.discard(call)
            self._unfinished -= 1
            self._lost -= call.abandoned_at is not None
            is_superfluous = self._threads - self._lost > self._size
            self._threads -= is_superfluous
            return call.finish(outcome), is_superfluous


class DefaultExecutor(concurrent.futures.ThreadPoolExecutor):
    """The pool as an event loop's default executor: ``asyncio.to_thread`` and the resolver of names use it.

    So what they run is bounded and counted like every other blocking call.
    """

    def __init__(self, pool: ThreadPool) -> None:
        super().__init__(max_workers=1)  # it never starts a thread: ``submit`` goes to the pool
        self._pool = pool

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """See concurrent.futures.Executor."""
        return _Future(self._pool.submit(functools.partial(fn, **kwargs), *args))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002
        """Do nothing: other loops use the pool too."""


class _Future(concurrent.futures.Future[Any]):
    """The outcome of a call; when it is cancelled, the call is abandoned."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call
        call.pass_to(self._receive)

    def _receive(self, outcome: Outcome) -> None:
        result, error = outcome
        if not self.set_running_or_notify_cancel():
            return
        if error is None:
            self.set_result(result)
        else:
            self.set_exception(_fit(error))

    def cancel(self) -> bool:
        """Abandon the call."""
        self._call.abandon(self._receive)
        return super().cancel()


def _run(function: Callable[[], Any]) -> Outcome:
    since = fork_guard.count[0]
    try:
        return function(), None
    except BaseException as raised:  # noqa: BLE001 - a node may raise anything; the thread must survive
        return None, raised
    finally:
        if fork_guard.count[0] != since:
            fork_guard.end()


def _deliver(future: asyncio.Future[Any], outcome: Outcome) -> None:
    result, error = outcome
    if future.done():
        _close(result)
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(_fit(error))


def _close(result: Any) -> None:
    """Drop a result that nothing takes: a coroutine that is never awaited would leave a warning."""
    if asyncio.iscoroutine(result):
        result.close()


def _fit(error: BaseException) -> BaseException:
    """The error, as a future takes it: it refuses one class, and a task ends on the other."""
    if isinstance(error, StopIteration | GeneratorExit):
        return RuntimeError(f"the function raised {type(error).__name__}")
    return error
