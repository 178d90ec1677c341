"""Decides liveness and readiness, and ends a service that cannot recover.

Broken Kafka clients are rebuilt (``kafka/``). A failure that cannot be repaired inside the process ends the
service, and a supervisor starts a new process: only answered records are committed, so nothing is lost.
Unreachable brokers do not end the service: a new process would not reach them either.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, NamedTuple

from fivestage.core.admission.thread_queues import PATIENCE
from fivestage.errors import ExecutorError, FivestageError, PublishError
from fivestage.executors.abandoned_cpu import CpuUse, thread_busy_s

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.reachability import Reachability
    from fivestage.dispatch.progress import Progress
    from fivestage.executors import Executor
    from fivestage.kafka.consumer.group_member import GroupMember
    from fivestage.kafka.producer.sink import Sink

TICK_S = 0.5
FIRST_TICK_S = 0.05
STUCK_S = 30.0
"""Seconds without a finished record, beyond the longest query, after which the service is not live."""
UNACKED_UNREADY_S = 5.0
"""Seconds that an event may go unacknowledged before the service is not ready."""
RUN_ON_S = 10.0
"""Seconds after its end beyond which a running call is not expected to return."""
STRIKES = 3
"""Failed checks in a row that end the service: the first one after a pause of the process proves nothing."""


class Health(NamedTuple):
    """The answer to a probe."""

    ok: bool
    reason: str = "ok"


class HealthMonitor:
    """Checks the parts of a running service, from the bus loop.

    Args:
        member: Consumes the records.
        progress: Counts the records in flight.
        total_s: The longest that a query may run.
        executor: Runs the queries.
        sink: Publishes the events.
        publish_timeout_s: How long an event may go unacknowledged while brokers can be reached.
        max_abandoned: How many calls may run on for more than RUN_ON_S after their end.
        reach: Whether brokers can be reached.
        busy_s: Returns the seconds that a thread has computed or waited for a core; None for an ended thread.
    """

    def __init__(
        self,
        *,
        member: GroupMember,
        progress: Progress,
        total_s: float,
        executor: Executor,
        sink: Sink,
        publish_timeout_s: float,
        max_abandoned: int,
        reach: Reachability,
        busy_s: Callable[[tuple[int, int]], float | None] = thread_busy_s,
    ) -> None:
        self._reach = reach
        self._member = member
        self._progress = progress
        self._total_s = total_s
        self._executor = executor
        self._sink = sink
        self._publish_timeout_s = publish_timeout_s
        self._max_abandoned = max_abandoned
        self._busy_s = busy_s
        self._cpu_use = CpuUse(RUN_ON_S)
        self._cpu_users: list[str] = []
        """Names of the stages and nodes whose abandoned code keeps using CPU."""
        self._strikes = 0
        self.draining = False
        self.was_ready = False
        """It has been ready once."""
        self.bus_lag_s = 0.0
        """Seconds by which the last check was late on the bus loop."""
        self.is_ready = False
        """What ``ready`` returned at the last check, for other threads."""

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Check until cancelled; call *on_ready* when the service is ready for the first time.

        Raises:
            FivestageError: the service cannot recover, by STRIKES checks in a row.
        """
        clock = asyncio.get_running_loop().time
        while True:
            self.is_ready = self.ready().ok
            if self.is_ready and not self.was_ready:
                self.was_ready = True
                on_ready()
            due = clock() + (TICK_S if self.was_ready else FIRST_TICK_S)
            await asyncio.sleep(due - clock())
            self.bus_lag_s = max(0.0, clock() - due)
            self._member.look()
            self._sink.look(clock())
            failure = self._failure(clock())
            self._strikes = self._strikes + 1 if failure is not None else 0
            if failure is not None and self._strikes >= STRIKES:
                raise failure

    def _failure(self, now: float) -> FivestageError | None:
        """Return an error from which the service cannot recover; None if there is none."""
        waited_s = self._reach.waited_s(now - self._sink.oldest_unacked_s(now), now)
        if waited_s > self._publish_timeout_s:
            why = self._sink.unready or "brokers can be reached, and do not take them"
            return PublishError(f"events were not acknowledged for {waited_s:.0f} s: {why}")
        if self._executor.failure is not None:
            return ExecutorError(self._executor.failure)
        self._find_cpu_use(now)
        if (reason := self._runs_on(now)) is not None:
            return ExecutorError(reason)
        return None

    def _find_cpu_use(self, now: float) -> None:
        """Find abandoned code in this process that keeps using CPU; the executor handles worker processes."""
        pid = os.getpid()
        own = [one for one in self._executor.abandoned() if one.thread is not None and one.thread[0] == pid]
        used = {one.thread: (one.name, self._busy_s(one.thread)) for one in own if one.thread is not None}
        self._cpu_users = self._cpu_use.update(used, now)

    def _runs_on(self, now: float) -> str | None:
        """Return why too much code runs on after its end; None if it does not."""
        if self._cpu_users:
            names = ", ".join(self._cpu_users)
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
        """Return whether the executor works, abandoned code is bounded, and records in flight finish."""
        now = asyncio.get_running_loop().time()
        if self._executor.failure is not None:
            return Health(ok=False, reason=self._executor.failure)
        if (reason := self._runs_on(now)) is not None:
            return Health(ok=False, reason=reason)
        idle_s = now - self._progress.last_at
        patience_s = STUCK_S + (1 + PATIENCE) * self._total_s  # with a wait for a thread
        if self._progress.in_flight and not self._sink.unacknowledged and idle_s > patience_s:
            return Health(ok=False, reason=f"no query has ended for {idle_s:.0f} s")
        return Health(ok=True)

    def is_cut_off(self) -> bool:
        """Return whether Kafka may be unreachable: a client is not ready, or events are not acknowledged."""
        waited_s = self._sink.oldest_unacked_s(asyncio.get_running_loop().time())
        rebuilds = self._sink.fault is not None
        return rebuilds or waited_s > UNACKED_UNREADY_S or self._member.unready is not None

    def ready(self) -> Health:
        """Return whether the service is live and not draining, and can consume all partitions and publish."""
        if self.draining:
            return Health(ok=False, reason="draining")
        reason = self._member.unready or self._not_writable() or self._member.halted
        reason = reason or self._executor.unready
        return self.live() if reason is None else Health(ok=False, reason=reason)

    def _not_writable(self) -> str | None:
        """Return why no event can be published now."""
        if (fault := self._sink.fault) is not None:
            return f"the producer is being rebuilt: {fault.text}"
        waited_s = self._sink.oldest_unacked_s(asyncio.get_running_loop().time())
        waits = f"events have not been acknowledged for {waited_s:.0f} s"
        return self._sink.unready or (waits if waited_s > UNACKED_UNREADY_S else None)
