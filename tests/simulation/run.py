"""One seed, from the first query to the last commit."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from collections import Counter
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import structlog

from fivestage.core.records import PlainRecord

from .broker import QUERIES, Broker
from .cluster import Cluster
from .instance import Instance
from .judge import counted, judge
from .loop import Process, SimLoop
from .network import NO_FAULTS, Network
from .questions import CORRUPT, WALL_AT_START
from .scenario import FaultKind, Scenario, draw
from .trace import Event, Trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .questions import Query
    from .scenario import TimedFault

RECOVERY_S = 120.0
"""The time limit, after the last fault, until all is answered and committed."""
END_S = 30.0
"""The time limit of an instance's shutdown."""
RESTART_S = 1.0
"""The shortest time until an ended instance starts again."""
MAX_INSTANCES = 3


class Outcome(NamedTuple):
    """The result of a seed."""

    seed: int
    violations: list[str]
    events: list[Event]
    virtual_s: float
    duplicates: int
    """Terminal events beyond the first of each record."""
    rebalances: int
    rows: Counter[str]
    """The occurrences of each row of the contract's table."""
    paths: Counter[str]
    """The occurrences of each kind of event, see ``Trace``."""


class Simulation:
    """One run of a scenario.

    Args:
        scenario: The scenario.
    """

    def __init__(self, loop: SimLoop, scenario: Scenario) -> None:
        self._loop = loop
        self._scenario = scenario
        self._random = Random(scenario.seed + 1)
        self.trace = Trace(loop.time)
        self._network = Network(loop, self._random, scenario.faults, self.trace)
        self.broker = Broker(
            loop,
            self._random,
            self.trace,
            partitions=scenario.partitions,
            output_partitions=scenario.output_partitions,
        )
        self.broker.rejects = scenario.settings.pipeline.rejected == "error"
        self.broker.refuses = scenario.refuses
        self._instances: list[Instance] = []
        self._calm = False
        self._over = False

    async def run(self) -> None:
        """Run the scenario, wait until all is well, then stop."""
        for query in self._scenario.queries:
            self._loop.outside(query.at_s, self._write, query)
        for happening in self._scenario.happenings:
            self._loop.outside(happening.at_s, self._befall, happening)
        await asyncio.sleep(self._scenario.chaos_s)
        self._calm_down()
        await self._until_finished()
        self._over = True
        await self._end()
        for sentence in judge(self.broker, self._scenario):
            self.trace.violated("at the end", sentence)
        for context in self._loop.complaints:
            self.trace.violated("no internal error", context["message"], repr(context.get("exception")))

    @property
    def virtual_s(self) -> float:
        """Return the virtual duration."""
        return self._loop.time()

    def _write(self, query: Query) -> None:
        offset = len(self.broker.queries[query.partition])
        if query.value == CORRUPT:
            self.broker.corrupt.add((query.partition, offset))
        timestamp = int((WALL_AT_START + self._loop.time()) * 1000)
        self.broker.asked[query.partition, offset] = query
        record = PlainRecord(
            QUERIES, query.partition, offset, timestamp, query.key, query.value, query.headers
        )
        self.broker.write(record)

    # Scenario events

    @property
    def _running(self) -> list[Instance]:
        return [one for one in self._instances if one.cluster.process.alive]

    def _befall(self, happening: TimedFault) -> None:
        running = self._running
        if happening.what is FaultKind.START:
            if len(running) < MAX_INSTANCES:
                self._start()
        elif happening.what is FaultKind.REBALANCE:
            self.broker.group.poke()
        elif running:
            self._harm(self._random.choice(running), happening)

    def _harm(self, instance: Instance, happening: TimedFault) -> None:
        process = instance.cluster.process
        instance.note(f"* {happening.what}", happening.for_s)
        if happening.what is FaultKind.TERM:
            self._terminate(instance)
        elif happening.what is FaultKind.KILL:
            self._loop.kill(process)
            self._restart_soon(instance)
        elif happening.what is FaultKind.CUT:
            self._network.cut_off.add(process.name)
            self._loop.outside(happening.for_s, self._network.cut_off.discard, process.name)
        elif happening.what is FaultKind.BREAK:
            if instance.started:
                self._network.fatal.add(process.name)  # too often, and it ends
                instance.break_something(self._random)
        else:
            self._loop.stop_process(process)
            self._loop.outside(happening.for_s, self._loop.continue_process, process)

    def _start(self) -> None:
        name = f"i{len(self._instances)}"
        cluster = Cluster(self.broker, self._network, self.trace, Process(name))
        instance = Instance(
            self._scenario.settings,
            cluster,
            self._scenario.manners,
            max_taken_in=self._scenario.max_taken_in,
        )
        self._instances.append(instance)
        self.trace.add(name, "* start")
        instance.exited.add_done_callback(lambda _: self._ended(instance))
        self._loop.spawn(cluster.process, instance.main)

    def _terminate(self, instance: Instance) -> None:
        instance.was_asked = True
        self._loop.spawn(instance.cluster.process, instance.sigterm)

    def _ended(self, instance: Instance) -> None:
        """Check that an ended process had a reason."""
        hard = not self._scenario.is_gentle and (instance.was_asked or not instance.started)
        if instance.code != 0 and not hard and instance.cluster.process.name not in self._network.fatal:
            self.trace.violated("ends well", instance.cluster.process.name, repr(instance.error))
        self._restart_soon(instance)

    def _restart_soon(self, instance: Instance) -> None:
        if not instance.was_asked or not self._running:
            self._loop.outside(self._random.random() * RESTART_S, self._restart)

    def _restart(self) -> None:
        if not self._over and len(self._running) < MAX_INSTANCES:
            self._start()

    # The shutdown

    def _calm_down(self) -> None:
        self.trace.add("SIM", "* all is well now")
        self._calm = True
        self._network.faults = NO_FAULTS
        self._network.cut_off.clear()
        for instance in self._instances:
            self._loop.continue_process(instance.cluster.process)
        if not self._running:
            self._start()

    async def _until_finished(self) -> None:
        finished = asyncio.Event()

        def look() -> None:
            if self.broker.is_finished:
                finished.set()

        self.broker.on_change = look
        look()
        try:
            async with asyncio.timeout(RECOVERY_S):
                await finished.wait()
        except TimeoutError:
            self.trace.violated("it goes on", f"not finished {RECOVERY_S:.0f} s after the last trouble")

    async def _end(self) -> None:
        running = self._running
        for instance in running:
            instance.note("* term")
            self._terminate(instance)
        end_at = self._loop.time() + END_S
        for instance in running:
            await asyncio.wait({instance.exited}, timeout=end_at - self._loop.time())
            if instance.cluster.process.alive:
                self.trace.violated("ends in time", instance.cluster.process.name)

    def abandon(self) -> None:
        """Drop everything left without running it; its errors do not count."""
        self.trace.ended = True
        for instance in self._instances:
            instance.stack.pop_all()
            self._loop.kill(instance.cluster.process)
        self._loop.dispose()


def run(seed: int) -> Outcome:
    """Run one seed; same seed, same outcome."""
    simulation = simulate(seed)
    broker, trace = simulation.broker, simulation.trace
    results = [sum(one.kind == "result" for one in about) for about in broker.about.values()]
    return Outcome(
        seed,
        trace.violations,
        trace.events,
        simulation.virtual_s,
        sum(max(0, count - 1) for count in results),
        broker.group.generation,
        Counter() if trace.violations else counted(broker),
        Counter(event.what for event in trace.events),
    )


def simulate(seed: int) -> Simulation:
    """Run it to the end; garbage is collected afterwards, which saves a fifth of the time."""
    random.seed(f"seed {seed}")  # pauses before rebuilds, trace ids; not the draws of the scenario
    loop = SimLoop()
    simulation = Simulation(loop, draw(seed))
    asyncio.set_event_loop(None)
    collects = gc.isenabled()
    gc.disable()
    try:
        loop.run_until_complete(simulation.run())
    except RuntimeError as error:  # the loop is idle
        simulation.trace.violated("it goes on", error)
    finally:
        simulation.abandon()
        if collects:
            gc.enable()
    return simulation


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the service's log, which is not in virtual time."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)
