"""One call in a thread that answers many queries, each of which may have moved to another event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

from fivestage.core.exception_origin import call_in_thread, keep_frames
from fivestage.errors import NodeError
from fivestage.pipeline.thread_call import Call

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.pipeline.thread_call import Receiver, ValueOrError
    from fivestage.pipeline.thread_pool import ThreadPool


class Share(Call):
    """One item's share of a batch call: what its query waits for, on any event loop, as for any call."""

    __slots__ = ("_batch_call",)

    def __init__(self, pool: ThreadPool, name: str, batch_call: BatchCall) -> None:
        super().__init__(pool, _no_function, name)
        self._batch_call = batch_call
        self.started = True

    def abandon(self, receive: Receiver) -> None:
        """See Call; the batch call is abandoned with its last share."""
        super().abandon(receive)
        self._batch_call.abandon_unwanted()

    def adopt(self) -> bool:
        """See Call."""
        return super().adopt() and not self._batch_call.is_dropped

    def end(self, outcome: ValueOrError) -> None:
        """Pass on the item's outcome, in the thread of the batch call."""
        with self._pool.lock:
            self.outcome = outcome
            receive = self.receive
        if receive is not None:
            receive(outcome)


class BatchCall:
    """A call of a batch node's ``def`` function in a thread.

    Args:
        pool: Has the threads.
        name: The node.
        size: The number of items.
        on_end: Called with True when the function has answered, and with False when it has failed, in its
            thread; or when the call is abandoned, in that of the last waiting query.
    """

    def __init__(self, pool: ThreadPool, name: str, size: int, on_end: Callable[[bool], None]) -> None:
        self._pool = pool
        self._name = name
        self._on_end = on_end
        self._call: Call | None = None
        self.shares = [Share(pool, name, self) for _ in range(size)]

    def __repr__(self) -> str:
        return f"<BatchCall of {self._name}, {len(self.shares)} shares>"

    def submit(self, function: Callable[..., Any], items: list[Any], ctx: Any) -> None:
        """Queue the function for a thread. Called once, on the loop, when the shares have receivers."""
        self._call = self._pool.submit(self._run, function, items, ctx, name=self._name)
        self._call.pass_to(self._receive)

    @property
    def is_dropped(self) -> bool:
        """It was abandoned before a thread took it, so its function is never called."""
        return self._call is not None and self._call.is_dropped

    def abandon_unwanted(self) -> None:
        """Abandon the call if no query waits for it any more; may be called in several threads at a time."""
        call = self._call
        if call is not None and all(share.abandoned_at is not None for share in self.shares):
            call.abandon(self._receive)
            self._on_end(False)

    def _run(self, function: Callable[..., Any], items: list[Any], ctx: Any) -> bool:
        try:
            outcomes = outcomes_of(call_in_thread(function, items, ctx), len(items))
        except BaseException as raised:  # noqa: BLE001 - a node may raise anything
            outcomes = [(None, raised)] * len(items)
            answered = False
        else:
            answered = True
        for share, outcome in zip(self.shares, outcomes, strict=True):
            share.end(outcome)
        return answered

    def _receive(self, outcome: ValueOrError) -> None:
        self._on_end(bool(outcome[0]))


def outcomes_of(answers: Any, size: int) -> list[ValueOrError]:
    """What a batch node returned, item by item; an exception in place of an answer is that item's error.

    Raises:
        NodeError: it is no list, or has another length.
    """
    if asyncio.iscoroutine(answers):
        answers.close()
    if isinstance(answers, str | bytes | dict | AbstractSet) or not hasattr(answers, "__len__"):
        kind = type(answers).__name__
        raise NodeError(f"a batch node must return a list with one answer per item, got {kind}")
    found = list(answers)
    if len(found) != size:
        raise NodeError(f"a batch node must return one answer per item: {len(found)} for {size} items")
    return [_outcome(answer) for answer in found]


def _outcome(answer: Any) -> ValueOrError:
    if isinstance(answer, BaseException):
        keep_frames(answer)
        return None, answer
    return answer, None


def _no_function() -> None:
    """Stands for the function of a share, which no thread takes."""
