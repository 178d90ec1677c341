"""The health monitor over fakes of the parts it checks, in virtual time."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from fivestage.core.admission.thread_queues import PATIENCE
from fivestage.core.reachability import Reachability
from fivestage.errors import ExecutorError, FivestageError, PublishError
from fivestage.kafka.connection.rebuild_policy import ClientFault
from fivestage.pipeline.thread_pool import Abandoned
from fivestage.service.health import RUN_ON_S, STUCK_S, UNACKED_UNREADY_S, HealthMonitor


class Parts:
    """Member, dispatcher, executor and sink in one, in any state that a test sets."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.total_s = 0.25
        self.last_at = 0.0
        self.unacknowledged = 0
        self.unacked_since: float | None = None
        self.failure: str | None = None
        self.unready: str | None = None
        self.left: list[Abandoned] = []
        self.fault: ClientFault | None = None
        self.halted: str | None = None
        self.looks = 0
        self.cpu_share = 0.0
        """The share of a core that each thread uses."""

    def cpu_s(self, _thread: tuple[int, int]) -> float:
        """See HealthMonitor."""
        return asyncio.get_running_loop().time() * self.cpu_share

    def look(self, _now: float | None = None) -> None:
        self.looks += 1

    def oldest_unacked_s(self, now: float) -> float:
        return 0.0 if self.unacked_since is None else now - self.unacked_since

    def abandoned(self) -> list[Abandoned]:
        return self.left


def monitor(parts: Any, executor: Any = None, reach: Reachability | None = None) -> HealthMonitor:
    """Build a health monitor of *parts*, and of another executor where one is given."""
    return HealthMonitor(
        member=parts,
        progress=parts,
        total_s=parts.total_s,
        executor=executor or parts,
        sink=parts,
        publish_timeout_s=120.0,
        max_abandoned=8,
        busy_s=(executor or parts).cpu_s,
        reach=reach or Reachability(),
    )


async def given_up(
    parts: Parts, within_s: float, executor: Parts | None = None, reach: Reachability | None = None
) -> FivestageError | None:
    """Return the error that the monitor ends the service with, or None."""
    try:
        async with asyncio.timeout(within_s):
            await monitor(parts, executor, reach).run(lambda: None)
    except TimeoutError:
        return None
    except FivestageError as error:
        return error
    raise AssertionError("the health monitor ended by itself")


async def test_all_is_well() -> None:
    """An idle service is ready at once and stays ready."""
    parts, ready = Parts(), []
    looking = asyncio.create_task(monitor(parts).run(lambda: ready.append(True)))
    await asyncio.sleep(600)
    looking.cancel()
    assert ready == [True]
    assert monitor(parts).ready() == (True, "ok")


async def test_an_executor_that_ended() -> None:
    """A dead event loop of the nodes ends the service at the next check and fails both probes."""
    parts, executor = Parts(), Parts()
    executor.failure = "a node has ended it"
    assert monitor(parts, executor).live() == (False, "a node has ended it")
    assert monitor(parts, executor).ready() == (False, "a node has ended it")
    assert isinstance(await given_up(parts, 5, executor), ExecutorError)


async def test_a_producer_that_is_being_rebuilt() -> None:
    """While the sink rebuilds its producer, the service is not ready but live."""
    parts = Parts()
    parts.fault = ClientFault("sender_ended", "the send task has ended")
    assert await given_up(parts, 5) is None
    assert parts.looks > 5
    assert monitor(parts).ready() == (False, "the producer is being rebuilt: the send task has ended")
    assert monitor(parts).live().ok


async def test_too_many_stuck_stages() -> None:
    """More abandoned stages than allowed end the service, and the reason names their nodes."""
    parts = Parts()
    parts.left = [Abandoned("bad", 0.0)] * 8 + [Abandoned("slow", 1e9)] * 20
    assert await given_up(parts, 60) is None
    parts.left += [Abandoned("bad", 0.0)]
    assert monitor(parts).ready().reason.startswith("9 calls have run on")
    reason = str(await given_up(parts, 60))
    assert "executor.max_abandoned" in reason
    assert "bad" in reason
    assert "slow" not in reason


async def test_slow_stages_are_not_stuck() -> None:
    """Code that runs for less than the allowed time is slow, in any number."""
    parts = Parts()
    parts.left = [Abandoned("slow", 0.0)] * 100
    assert await given_up(parts, RUN_ON_S - 1) is None
    assert monitor(parts).live().ok


def in_thread(name: str, *, process: int | None = None, number: int = 1) -> Abandoned:
    """A call of a node that runs on in a thread."""
    return Abandoned(name, 0.0, (os.getpid() if process is None else process, number))


async def test_code_that_burns_cpu() -> None:
    """Code that uses CPU ends the service after RUN_ON_S, even a single call; the reason names the node."""
    parts = Parts()
    parts.left, parts.cpu_share = [in_thread("spins"), Abandoned("waits", 0.0)], 0.9
    assert await given_up(parts, RUN_ON_S - 1) is None
    error = await given_up(parts, RUN_ON_S + 5)
    assert isinstance(error, ExecutorError)
    assert str(error).startswith(
        "code of spins has kept over half a core busy for 10 s after its queries ended"
    )


async def test_burning_fails_the_liveness_probe() -> None:
    """Code that uses CPU fails the liveness probe before the service ends itself."""
    parts = Parts()
    one = monitor(parts)
    parts.left, parts.cpu_share = [in_thread("spins")], 0.9
    with pytest.raises(ExecutorError):
        await one.run(lambda: None)
    assert not one.live().ok
    assert "code of spins" in one.ready().reason


async def test_calls_that_only_block() -> None:
    """Calls that only wait do not end the service below max_abandoned, as in a database stall."""
    parts = Parts()
    parts.left, parts.cpu_share = [in_thread("waits", number=number) for number in range(8)], 0.01
    assert await given_up(parts, 3600) is None
    assert monitor(parts).live().ok


async def test_code_that_burns_in_another_process() -> None:
    """Code that uses CPU in another process does not end the service: the executor replaces that process."""
    parts = Parts()
    parts.left, parts.cpu_share = [in_thread("spins", process=os.getpid() + 1)], 1.0
    assert await given_up(parts, 60) is None


async def test_background_tasks_that_block_loops() -> None:
    """Background tasks belong to no query, so the reason names their place."""
    parts = Parts()
    parts.left = [Abandoned("/app/nodes.py:12 poll", 0.0)] * 9
    assert "/app/nodes.py:12 poll blocks" in str(await given_up(parts, 60))


async def test_events_that_are_not_acknowledged() -> None:
    """Unacknowledged events make the service unready, then end it; it stays live meanwhile."""
    parts = Parts()
    parts.unacked_since, parts.in_flight, parts.unacknowledged = 0.0, 5, 5
    assert await given_up(parts, UNACKED_UNREADY_S + 1) is None
    assert (monitor(parts).ready().ok, monitor(parts).live().ok) == (False, True)
    assert isinstance(await given_up(parts, 200), PublishError)


@pytest.mark.fault(2)
async def test_an_outage_ends_nothing() -> None:
    """Events that wait while no broker is reachable count only from the first connection."""
    parts, reach = Parts(), Reachability()
    parts.unacked_since, parts.in_flight, parts.unacknowledged = 0.0, 5, 5
    reach.lost()
    assert await given_up(parts, 3600, reach=reach) is None
    assert (monitor(parts, reach=reach).ready().ok, monitor(parts, reach=reach).live().ok) == (False, True)
    reach.found(asyncio.get_running_loop().time())
    assert await given_up(parts, 119, reach=reach) is None
    assert isinstance(await given_up(parts, 10, reach=reach), PublishError)


async def test_a_producer_that_is_rebuilt_counts_as_cut_off() -> None:
    """A producer that is rebuilt counts as cut off, so that the cause is checked even without events."""
    parts = Parts()
    assert not monitor(parts).is_cut_off()
    parts.fault = ClientFault("sender_ended", "the send task has ended")
    assert monitor(parts).is_cut_off()


async def test_an_output_topic_that_is_gone() -> None:
    """A topic that rejects events makes the service unready, and is named when the service ends."""
    parts = Parts()
    parts.unacked_since, parts.unready = 0.0, "topic 'x' does not exist any more"
    assert monitor(parts).ready() == (False, "topic 'x' does not exist any more")
    assert monitor(parts).live().ok
    assert str(await given_up(parts, 200)).endswith(": topic 'x' does not exist any more")


async def test_no_query_ends() -> None:
    """Queries in flight past their deadlines fail the liveness probe."""
    parts = Parts()
    parts.in_flight = 5
    assert monitor(parts).live().ok
    await asyncio.sleep(STUCK_S + 1)
    assert not monitor(parts).live().ok


async def test_a_query_that_may_take_long() -> None:
    """A budget of a minute after a wait for a thread does not fail the liveness probe."""
    parts = Parts()
    parts.in_flight, parts.total_s = 1, 60.0
    await asyncio.sleep(STUCK_S + (1 + PATIENCE) * 60)
    assert monitor(parts).live().ok
    await asyncio.sleep(1)
    assert not monitor(parts).live().ok


@pytest.mark.parametrize("reason", ["not a member of the group yet", "the coordinator cannot be reached"])
async def test_not_joined(reason: str) -> None:
    """A member that has not joined its group is unready, whatever the cause."""
    parts = Parts()
    parts.unready = reason
    assert monitor(parts).ready() == (False, reason)
    assert monitor(parts).live().ok


@pytest.mark.fault(29)
async def test_a_halted_partition() -> None:
    """A halted partition makes the service unready with the reason, but live: other partitions continue."""
    parts = Parts()
    parts.halted = "halted: partition 3: why"
    assert monitor(parts).ready() == (False, "halted: partition 3: why")
    assert monitor(parts).live().ok


async def test_a_process_that_was_stopped_for_a_while() -> None:
    """After a suspended process resumes, signs of life at the next check are in time."""
    parts = Parts()
    parts.unacked_since = -600.0
    loop = asyncio.get_running_loop()
    loop.call_later(0.1, setattr, parts, "unacked_since", None)
    assert await given_up(parts, 60) is None
