"""One run: three brokers, three instances, steady load, the schedule, and the checker at the end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from kafka.broker import BrokerError, Unavailable
from kafka.cluster import acquire_cluster
from kafka.test_service import settings_for
from support.checker import (
    CpuWatch,
    History,
    Limits,
    MetricsWatch,
    Report,
    judge,
    read_history,
)
from support.reading import AWAY, make_consumer, positions_of

from .faults import Faults
from .instances import Instances
from .load import Load
from .schedule import INSTANCES, schedule

if TYPE_CHECKING:
    from pathlib import Path

    from kafka.broker import TopicSet
    from kafka.cluster import Cluster

    from .schedule import Kind

PARTITIONS = 8
SETTINGS = {
    "kafka__session_timeout_ms": 6000,
    "kafka__heartbeat_interval_ms": 1000,
    "kafka__rebalance_timeout_ms": 9000,
    "kafka__request_timeout_ms": 12000,
}
LIMITS = Limits(in_flight=256, unfinished=1100, late_s=0.5, written_late_s=2.0, shutdown_s=16.0)
LOOK_S = 0.2
CATCH_UP_S = 180.0


class Plan(NamedTuple):
    """The parameters of a run."""

    seed: int
    seconds: float
    rate: float = 60.0
    """Records a second."""
    logs: Path | None = None
    """A directory for the instances' logs."""


@dataclass
class Outcome:
    """The result of a run."""

    plan: Plan
    report: Report
    history: History
    sent: int
    done: Counter[Kind]
    skipped: int
    """Broker faults skipped because the brokers were not in sync in time."""
    deaths: list[str]
    catch_up_s: float | None
    """From the last record to the last commit; None when that took too long."""
    problems: list[str] = field(default_factory=list)
    """Failures of the run itself."""
    took_s: dict[str, float] = field(default_factory=dict)
    """The duration of each part of the run."""

    @property
    def ok(self) -> bool:
        """Return whether no promise was broken."""
        return self.report.silent and self.catch_up_s is not None and not self.problems


def run(plan: Plan) -> Outcome:
    """Run it.

    Raises:
        BrokerError: no brokers are available.
    """
    cluster = acquire_cluster()
    if isinstance(cluster, Unavailable):
        raise BrokerError(cluster.reason)
    clock = _Clock()
    with cluster:
        topics = cluster.create_topics(PARTITIONS)
        clock.lap("brokers and topics")
        outcome = _run_on(cluster, topics, plan, clock)
    clock.lap("brokers taken away")
    return outcome


class _Clock:
    """Records the duration of each part of a run."""

    def __init__(self) -> None:
        self.took_s: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """End a part."""
        now = time.monotonic()
        self.took_s[name], self._last = now - self._last, now


def _run_on(cluster: Cluster, topics: TopicSet, plan: Plan, clock: _Clock) -> Outcome:
    bootstrap = cluster.bootstrap
    with (
        Instances(bootstrap, settings_for(topics, **SETTINGS), plan.logs) as instances,
        MetricsWatch(instances.living) as metrics,
        CpuWatch(instances.living) as cpu,
    ):
        for slot in INSTANCES:
            instances.start(slot)
        instances.wait_until_ready()
        clock.lap("instances ready")
        with (
            Faults(cluster, instances) as faults,
            Load(bootstrap, topics.queries, seed=plan.seed, rate=plan.rate) as load,
        ):
            faults.carry_out(schedule(plan.seed, plan.seconds), plan.seconds)
            clock.lap("faults")
            faults.finish()
            clock.lap("brokers back")
            load.finish()
            catch_up_s = _catch_up(bootstrap, topics, instances, len(load.places))
        instances.end_all()
        clock.lap("caught up, instances ended")
    history = replace(
        read_history(bootstrap, topics, load.ids),
        rejects=load.rejects,
        samples=metrics.samples,
        endings=instances.endings,
        tenures=instances.tenures,
        pauses=instances.pauses,
        starved=cpu.starved,
        outages=faults.outages,
    )
    clock.lap("topics read")
    report = judge(history, LIMITS)
    clock.lap("judged")
    return Outcome(
        plan=plan,
        report=report,
        history=history,
        sent=len(load.places),
        done=faults.done,
        skipped=faults.skipped,
        deaths=instances.deaths,
        catch_up_s=catch_up_s,
        problems=load.failures + faults.problems,
        took_s=clock.took_s,
    )


def _catch_up(bootstrap: str, topics: TopicSet, instances: Instances, count: int) -> float | None:
    """Wait until everything is committed; return the duration."""
    began, pause, total = time.monotonic(), threading.Event(), 0
    consumer = make_consumer(bootstrap, topics.prefix)
    try:
        while total < count:
            if time.monotonic() - began > CATCH_UP_S:
                return None
            instances.look_after()
            with contextlib.suppress(*AWAY):
                total = sum(positions_of(consumer, topics.queries).values())
            pause.wait(LOOK_S)
        return time.monotonic() - began
    finally:
        consumer.close()
