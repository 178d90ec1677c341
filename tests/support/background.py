"""Calls in threads with a time limit; a call that never returns does not keep the program from ending."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


def in_background(call: Callable[P, T], *args: P.args, **options: P.kwargs) -> Future[T]:
    """Call a function in a thread."""
    future: Future[T] = Future()
    threading.Thread(target=_settle, args=(future, lambda: call(*args, **options)), daemon=True).start()
    return future


class InOrder:
    """A thread that makes one call after the other."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[None], Callable[[], None]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, call: Callable[P, None], *args: P.args, **options: P.kwargs) -> Future[None]:
        """Call a function after all submitted before."""
        future: Future[None] = Future()
        self._calls.put((future, lambda: call(*args, **options)))
        return future

    def _run(self) -> None:
        while True:
            future, call = self._calls.get()
            if future.set_running_or_notify_cancel():
                _settle(future, call)


def _settle(future: Future[T], call: Callable[[], T]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
        future.set_exception(error)
