"""Makes the thread pool an event loop's default executor."""

from __future__ import annotations

import concurrent.futures
import functools
from typing import TYPE_CHECKING, Any

from fivestage.pipeline.thread_call import settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.pipeline.thread_call import Call, ValueOrError
    from fivestage.pipeline.thread_pool import ThreadPool


class DefaultExecutor(concurrent.futures.ThreadPoolExecutor):
    """Runs what ``asyncio.to_thread`` and the resolver of host names run, in the pool.

    So these calls are bounded and counted like every other blocking call.
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
    """The outcome of a call; cancelling it abandons the call."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call
        call.pass_to(self._receive)

    def _receive(self, outcome: ValueOrError) -> None:
        if self.set_running_or_notify_cancel():
            settle(self, outcome)

    def cancel(self) -> bool:
        """Abandon the call."""
        self._call.abandon(self._receive)
        return super().cancel()
