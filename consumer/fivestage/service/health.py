"""The health monitor: decides whether work progresses and can be answered, and when the service exits.

Kafka clients beyond repair are rebuilt (``kafka/connection/rebuild.py``). What cannot be repaired from inside
ends the process, so that its supervisor starts a new one: nothing unanswered is committed, so nothing is
lost. While no broker can be reached, the service waits: a new process could not reach them either.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, NamedTuple

from fivestage.core.admission.thread_queues import PATIENCE
from fivestage.core.reachability import Reachability
from fivestage.errors import ExecutorError, FivestageError, PublishError
from fivestage.executors.abandoned_cpu import CpuUse, thread_busy_s

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.dispatch.dispatcher import Dispatcher
    from fivestage.executors import Executor
    from fivestage.kafka.consumer.group_member import GroupMember
    from fivestage.kafka.producer.sink import Sink

TICK_S = 0.5
FIRST_TICK_S = 0.05
STUCK_S = 30.0
"""So much longer than any query may take nothing has ended: then nothing will."""
UNACKED_UNREADY_S = 5.0
RUN_ON_S = 10.0
"""Slow code comes back; what has not by then does not."""
STRIKES = 3
"""How often in a row trouble must be seen: a process that was stopped for a while finds its clocks ahead."""


class Health(NamedTuple):
    """An answer to a probe."""

    ok: bool
    reason: str = "ok"


class HealthMonitor:
    """Looks at the parts of a running service, from the bus loop.

    Args:
        publish_timeout_s: How long an event may go unacknowledged, while brokers can be reached.
        max_abandoned: How many calls may run on for RUN_ON_S after their end.
        busy_s: The seconds that a thread has computed, or waited for a core; None for one that has ended.
        reach: Whether brokers can be reached.
    """

    def __init__(
        self,
        *,
        source: GroupMember,
        dispatcher: Dispatcher,
        executor: Executor,
        sink: Sink,
        publish_timeout_s: float,
        max_abandoned: int,
        busy_s: Callable[[tuple[int, int]], float | None] = thread_busy_s,
        reach: Reachability | None = None,
    ) -> None:
        self._reach = reach or Reachability()
        self._source = source
        self._dispatcher = dispatcher
        self._executor = executor
        self._sink = sink
        self._publish_timeout_s = publish_timeout_s
        self._max_abandoned = max_abandoned
        self._busy_s = busy_s
        self._cpu_use = CpuUse(RUN_ON_S)
        self._burning: list[str] = []
        self._strikes = 0
        self.draining = False
        self.bus_lag_s = 0.0
        """How late the bus loop came to the last tick."""

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Look around until cancelled; *on_ready* is called when the service is ready for the first time.

        Raises:
            FivestageError: it is time to give up.
        """
        clock = asyncio.get_running_loop().time
        announced = False
        while True:
            if not announced and self.ready().ok:
                announced = True
                on_ready()
            due = clock() + (TICK_S if announced else FIRST_TICK_S)
            await asyncio.sleep(due - clock())
            self.bus_lag_s = max(0.0, clock() - due)
            self._source.look()
            self._sink.look(clock())
            trouble = self._trouble(clock())
            self._strikes = self._strikes + 1 if trouble is not None else 0
            if trouble is not None and self._strikes >= STRIKES:
                raise trouble

    def _trouble(self, now: float) -> FivestageError | None:
        """What cannot get better by itself."""
        waited_s = self._reach.waited_s(now - self._sink.oldest_unacked_s(now), now)
        if waited_s > self._publish_timeout_s:
            why = self._sink.unready or "brokers can be reached, and do not take them"
            return PublishError(f"events were not acknowledged for {waited_s:.0f} s: {why}")
        if self._executor.failure is not None:
            return ExecutorError(self._executor.failure)
        self._look_for_burning(now)
        if (reason := self._runs_on(now)) is not None:
            return ExecutorError(reason)
        return None

    def _look_for_burning(self, now: float) -> None:
        """Measure what the abandoned code of this process costs; that of others the executor ends."""
        pid = os.getpid()
        own = [one for one in self._executor.abandoned() if one.thread is not None and one.thread[0] == pid]
        used = {one.thread: (one.name, self._busy_s(one.thread)) for one in own if one.thread is not None}
        self._burning = self._cpu_use.look(used, now)

    def _runs_on(self, now: float) -> str | None:
        """Why the code that runs on after its end is too much."""
        if self._burning:
            names = ", ".join(self._burning)
            return (
                f"code of {names} has kept over half a core busy for {RUN_ON_S:.0f} s after its queries "
                "ended; a thread cannot be stopped, so the service ends "
                '(executor.kind = "process" would stop it)'
            )
        left = [one.name for one in self._executor.abandoned() if now - one.since > RUN_ON_S]
        if len(left) <= self._max_abandoned:
            return None
        names = ", ".join(sorted({name for name in left if name}))
        return (
            f"{len(left)} calls have run on for {RUN_ON_S:.0f} s after their end "
            f"(executor.max_abandoned = {self._max_abandoned}): {names} blocks, or ignores its cancellation"
        )

    def live(self) -> Health:
        """The loops turn and work progresses: what is in flight ends, because each query has a deadline."""
        now = asyncio.get_running_loop().time()
        if self._executor.failure is not None:
            return Health(ok=False, reason=self._executor.failure)
        if (reason := self._runs_on(now)) is not None:
            return Health(ok=False, reason=reason)
        idle_s = now - self._dispatcher.last_progress_at
        patience_s = STUCK_S + (1 + PATIENCE) * self._dispatcher.total_s  # it may wait for a thread before
        if self._dispatcher.in_flight and not self._sink.unacknowledged and idle_s > patience_s:
            return Health(ok=False, reason=f"no query has ended for {idle_s:.0f} s")
        return Health(ok=True)

    def is_cut_off(self) -> bool:
        """Nothing comes in, or nothing goes out: perhaps Kafka is out of reach."""
        waited_s = self._sink.oldest_unacked_s(asyncio.get_running_loop().time())
        rebuilds = self._sink.fault is not None
        return rebuilds or waited_s > UNACKED_UNREADY_S or self._source.unready is not None

    def ready(self) -> Health:
        """Joined, able to answer, not ending."""
        if self.draining:
            return Health(ok=False, reason="draining")
        reason = self._source.unready or self._not_writable() or self._source.halted
        reason = reason or self._executor.unready
        return self.live() if reason is None else Health(ok=False, reason=reason)

    def _not_writable(self) -> str | None:
        """Why no event goes out now."""
        if (trouble := self._sink.fault) is not None:
            return f"the producer is being rebuilt: {trouble.text}"
        waited_s = self._sink.oldest_unacked_s(asyncio.get_running_loop().time())
        waits = f"events have not been acknowledged for {waited_s:.0f} s"
        return self._sink.unready or (waits if waited_s > UNACKED_UNREADY_S else None)
