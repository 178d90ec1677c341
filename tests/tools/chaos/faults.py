"""Carries out a schedule: on instances at once, on brokers in a thread, in order."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Self

from confluent_kafka import KafkaException
from docker.errors import DockerException

from kafka.broker import BrokerError
from support.background import InOrder
from support.checker import Interval

from .schedule import Kind, Step

if TYPE_CHECKING:
    from concurrent.futures import Future

    from kafka.cluster import Cluster

    from .instances import Instances

LOOK_S = 0.2
BROKERS_S = 180.0
"""The time limit of broker steps after the end."""
AFTERMATH_S = 2.0
"""After a broker is back and in sync, clients may need a moment to notice."""


class Faults:
    """Carries out the steps; broker steps run in a thread, in order."""

    def __init__(self, cluster: Cluster, instances: Instances) -> None:
        self._cluster = cluster
        self._instances = instances
        self._brokers = InOrder()
        self._pending: list[tuple[Step, Future[None]]] = []
        self._away: dict[int, float] = {}
        self.done: Counter[Kind] = Counter()
        self.skipped = 0
        self.outages: list[Interval] = []
        self.problems: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for _, pending in self._pending:
            pending.cancel()

    def carry_out(self, steps: list[Step], seconds: float) -> None:
        """Carry out each step at its time; in between restart instances that have ended."""
        started = time.monotonic()
        for step in steps:
            self._wait_until(started + step.at_s)
            self._do(step)
        self._wait_until(started + seconds)

    def finish(self) -> None:
        """Wait until the brokers are as before."""
        limit = time.monotonic() + BROKERS_S
        for step, pending in self._pending:
            try:
                pending.result(max(0.0, limit - time.monotonic()))
            except TimeoutError:
                self.problems.append(
                    f"{step.kind}, broker {step.target}: not done {BROKERS_S:.0f} s after the end"
                )
            except (BrokerError, KafkaException, DockerException) as error:
                self.problems.append(f"{step.kind}, broker {step.target}: {error}")

    def _wait_until(self, at: float) -> None:
        pause = threading.Event()
        while (left := at - time.monotonic()) > 0:
            self._instances.look_after()
            pause.wait(min(left, LOOK_S))

    def _do(self, step: Step) -> None:
        instances = self._instances
        match step.kind:
            case Kind.KILL_INSTANCE:
                instances.kill(step.target)
            case Kind.PAUSE_INSTANCE:
                instances.pause(step.target)
            case Kind.RESUME_INSTANCE:
                instances.resume(step.target)
            case Kind.JOIN:
                instances.start(step.target)
            case Kind.LEAVE:
                instances.leave(step.target)
            case _:
                self._pending.append((step, self._brokers.submit(self._do_to_broker, step)))
                return
        self.done[step.kind] += 1

    def _do_to_broker(self, step: Step) -> None:
        if step.kind is Kind.START_BROKER:
            self._bring_back(step.target)
            return
        try:
            self._cluster.wait_until_in_sync()
        except BrokerError:  # with two brokers away nothing could be written
            self.skipped += 1
            return
        self._away[step.target] = time.time()
        if step.kind is Kind.KILL_BROKER:
            self._cluster.kill(step.target)
        else:
            self._cluster.stop(step.target)
        self.done[step.kind] += 1

    def _bring_back(self, node: int) -> None:
        began = self._away.pop(node, None)
        if began is None:
            return
        self._cluster.start(node)
        self._cluster.wait_until_in_sync()
        with contextlib.suppress(BrokerError):  # the tool itself was in the way of something
            self._cluster.elect_preferred()
        self.outages.append(Interval(began, time.time() + AFTERMATH_S))
        self.done[Kind.START_BROKER] += 1
