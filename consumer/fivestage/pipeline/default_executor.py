"""Makes the thread pool an event loop's default executor."""

from __future__ import annotations

import concurrent.futures
import functools
from typing import TYPE_CHECKING, Any

from fivestage.pipeline.thread_call import settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.pipeline.thread_call import ValueOrError
    from fivestage.pipeline.thread_pool import ThreadPool


class DefaultExecutor(concurrent.futures.ThreadPoolExecutor):
    """Runs the functions of ``asyncio.to_thread`` and of the host name resolver in the pool.

    So their calls are bounded and counted like every other blocking call.
    """

    def __init__(self, pool: ThreadPool) -> None:
        super().__init__(max_workers=1)  # it never starts a thread: ``submit`` goes to the pool
        self._pool = pool

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """See concurrent.futures.Executor; cancelling the future abandons the call."""
        future = concurrent.futures.Future[Any]()
        call = self._pool.submit(functools.partial(fn, **kwargs), *args)

        def receive(outcome: ValueOrError) -> None:
            if future.set_running_or_notify_cancel():
                settle(future, outcome)

        call.pass_to(receive)
        future.add_done_callback(lambda ended: call.abandon(receive) if ended.cancelled() else None)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002
        """Do nothing: other loops use the pool too."""
