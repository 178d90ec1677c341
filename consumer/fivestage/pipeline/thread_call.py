"""A blocking function that a thread of the pool runs, and the delivery of what it returns or raises."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from fivestage.pipeline import fork_guard

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable

    from fivestage.pipeline.call_slots import Slot
    from fivestage.pipeline.thread_pool import ThreadPool

    ValueOrError = tuple[Any, BaseException | None]
    """What a function returned, or the exception that it raised."""
    Receiver = Callable[[ValueOrError], None]


class Call:
    """One call of a function in the pool. One receiver gets the outcome; another may take over before.

    Fields change with the pool's lock held.
    """

    __slots__ = (
        "_pool", "abandoned_at", "function", "name", "outcome", "receive", "slot", "started", "thread",
    )  # fmt: skip

    def __init__(self, pool: ThreadPool, function: Callable[[], Any], name: str) -> None:
        self._pool = pool
        self.function: Callable[[], Any] | None = function
        """None when the call was abandoned before its start, and after its end."""
        self.name = name
        self.receive: Receiver | None = None
        self.outcome: ValueOrError | None = None
        self.started = False
        self.thread = 0
        """The kernel's number of the thread that runs the call."""
        self.abandoned_at: float | None = None
        """When the call was abandoned (monotonic seconds); None if it is not abandoned."""
        self.slot: Slot | None = None
        """What the call holds until it has ended, or is dropped; None for code without a limit."""

    def __repr__(self) -> str:
        return f"<Call of {self.name} {'running' if self.started and self.outcome is None else ''}>"

    @property
    def is_dropped(self) -> bool:
        """It was abandoned before it started, so it never runs."""
        return self.function is None and not self.started

    async def wait(self) -> Any:
        """Return what the function returns, or raise what it raises. A later caller replaces an earlier one.

        Cancelling the wait abandons the call: if it has not started, it never runs.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def receive(outcome: ValueOrError) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_deliver, future, outcome)

        self.pass_to(receive)
        try:
            return await future
        except asyncio.CancelledError:
            self.abandon(receive)
            if future.done() and not future.cancelled() and future.exception() is None:
                _close(future.result())
            raise

    def pass_to(self, receive: Receiver) -> None:
        """Pass the outcome to *receive* instead of the receiver so far.

        *receive* is called in the thread of the call, or in this one if the call has ended already.
        """
        with self._pool.lock:
            self.receive = receive
            outcome = self.outcome
        if outcome is not None:
            receive(outcome)

    def abandon(self, receive: Receiver) -> None:
        """Abandon the call, unless another receiver has taken over; if it has not started, it never runs."""
        self._pool.abandon(self, receive)

    def adopt(self) -> bool:
        """Keep the outcome for the next ``wait``, possibly on another loop.

        False if the call was dropped before it ran, or has returned a coroutine, which belongs to the loop
        that waited for it.
        """
        return self._pool.adopt(self)

    def run(self) -> ValueOrError:
        """Run the function, in a thread of the pool."""
        assert self.function is not None  # noqa: S101 - dropped calls are not run
        since = fork_guard.count[0]
        try:
            return self.function(), None
        except BaseException as raised:  # noqa: BLE001 - a node may raise anything; the thread must survive
            return None, raised
        finally:
            if fork_guard.count[0] != since:
                fork_guard.end()


def settle(future: asyncio.Future[Any] | concurrent.futures.Future[Any], outcome: ValueOrError) -> None:
    """Give a future the outcome of a call."""
    value, error = outcome
    if error is None:
        future.set_result(value)
    elif isinstance(error, StopIteration | GeneratorExit):  # neither passes through a future
        future.set_exception(RuntimeError(f"the function raised {type(error).__name__}"))
    else:
        future.set_exception(error)


def _deliver(future: asyncio.Future[Any], outcome: ValueOrError) -> None:
    if future.done():
        _close(outcome[0])
    else:
        settle(future, outcome)


def _close(value: Any) -> None:
    """Close a coroutine that nothing will await, so that Python does not warn of it."""
    if asyncio.iscoroutine(value):
        value.close()
