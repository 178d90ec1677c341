"""Rebuilding a client, over scripted clients, in virtual time."""

from __future__ import annotations

import asyncio
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from fivestage.core.observer import Observer
from fivestage.core.reachability import Reachability
from fivestage.errors import BrokerError, ConfigurationError
from fivestage.kafka.aiokafka_internals import back_off_failed_fetches
from fivestage.kafka.connection.rebuild import ATTEMPT_S, PATIENCE_S, STOP_S, Rebuilder, attempt_within
from fivestage.kafka.connection.rebuild_policy import MAX_REBUILDS, WINDOW_S, ClientFault

FAULT = ClientFault("fetch_ended", "the fetch task has ended")


class Client:
    """A client that starts and stops, fails, or hangs."""

    def __init__(self, *, fails: bool = False, hangs: bool = False) -> None:
        self.fails = fails
        self.hangs = hangs
        self.stopped = False

    async def start(self) -> None:
        if self.hangs:
            await asyncio.sleep(1e6)
        if self.fails:
            raise ConnectionError("no broker there")

    async def stop(self) -> None:
        self.stopped = True
        if self.hangs:
            await asyncio.sleep(1e6)


class Counted(Observer):
    """Records the rebuilds."""

    def __init__(self) -> None:
        self.rebuilds: list[tuple[str, str]] = []

    def client_rebuilt(self, client: str, reason: str) -> None:
        self.rebuilds.append((client, reason))


def rebuilder() -> Rebuilder:
    """Make what replaces a producer, while brokers can be reached."""
    return Rebuilder("producer", Observer(), Reachability())


async def test_a_budget_that_is_spent() -> None:
    """A rebuild beyond the budget is rejected and names its cause; the budget refills with time."""
    observer = Counted()
    rebuilds = Rebuilder("consumer", observer, Reachability())
    for _ in range(MAX_REBUILDS):
        await rebuilds.permit(FAULT)
    with pytest.raises(BrokerError, match=r"the consumer was rebuilt 3 times .*: the fetch task has ended"):
        await rebuilds.permit(FAULT)
    assert observer.rebuilds == [("consumer", "fetch_ended")] * MAX_REBUILDS
    await asyncio.sleep(WINDOW_S)
    await rebuilds.permit(FAULT)


async def test_brokers_that_come_back() -> None:
    """A client is retried until it starts; failed and hanging ones are stopped."""
    made = [Client(fails=True), Client(hangs=True), Client(fails=True), Client()]
    left = iter(made)
    client = await rebuilder().connect(lambda: next(left), lambda one: one.start())
    assert client is made[-1]
    assert [one.stopped for one in made] == [True, True, True, False]


async def test_certificates_that_are_being_exchanged() -> None:
    """A client that cannot be created is retried like one that cannot start."""
    left: list[Client] = [Client()]

    def make() -> Client:
        if asyncio.get_running_loop().time() < 1:
            raise ConfigurationError("cannot use the certificate files")
        return left.pop()

    assert await rebuilder().connect(make, lambda one: one.start())
    with pytest.raises(BrokerError, match="cannot use the certificate files"):
        await rebuilder().connect(_no_certificates, lambda one: one.start())


def _no_certificates() -> Client:
    raise ConfigurationError("cannot use the certificate files")


async def test_a_wait_for_brokers_that_is_given_up() -> None:
    """An abandoned wait ends at once; a client that was starting is stopped."""
    client = Client(fails=True)
    client.start = partial(asyncio.sleep, 1e6)  # type: ignore[method-assign] # does not fail, but wait
    rebuilding = asyncio.ensure_future(
        Rebuilder("consumer", Observer(), Reachability()).connect(lambda: client, lambda one: one.start())
    )
    await asyncio.sleep(1)
    rebuilding.cancel()
    await asyncio.wait({rebuilding})
    assert rebuilding.cancelled()
    assert asyncio.get_running_loop().time() < ATTEMPT_S
    assert client.stopped


@pytest.mark.fault(2)
async def test_an_outage_is_waited_for() -> None:
    """Attempts continue while no broker is reachable; the limit counts from the first connection."""
    clock, reach = asyncio.get_running_loop().time, Reachability()
    reach.lost()
    asyncio.get_running_loop().call_later(3600, lambda: reach.found(clock()))
    before = clock()
    with pytest.raises(BrokerError, match="the producer could not be rebuilt within 120 s"):
        await Rebuilder("producer", Observer(), reach).connect(
            lambda: Client(fails=True), lambda one: one.start()
        )
    assert 3600 + PATIENCE_S < clock() - before < 3600 + PATIENCE_S + 6


@pytest.mark.parametrize("client", [Client(fails=True), Client(hangs=True)])
async def test_brokers_that_stay_away(client: Client) -> None:
    """Attempts end with a reason after a while, whether they fail or hang."""
    clock = asyncio.get_running_loop().time
    before = clock()
    with pytest.raises(BrokerError, match="the producer could not be rebuilt within 120 s"):
        await rebuilder().connect(lambda: client, lambda one: one.start())
    assert PATIENCE_S < clock() - before < PATIENCE_S + ATTEMPT_S + STOP_S + 6


async def test_a_step_that_ignores_its_cancellation() -> None:
    """A step that ignores its cancellation is left behind."""

    async def deaf() -> None:
        while True:
            try:
                await asyncio.sleep(100)
                return
            except asyncio.CancelledError:
                continue

    assert await attempt_within(deaf, 3) == "no end after 3 s"
    await asyncio.sleep(200)


async def test_the_outcome_of_a_step() -> None:
    """An error is reported by class and text; a step cancelled from outside is no success."""

    async def cancelled() -> None:
        raise asyncio.CancelledError

    assert await attempt_within(Client().start, 3) is None
    assert await attempt_within(Client(fails=True).start, 3) == "ConnectionError: no broker there"
    assert await attempt_within(cancelled, 3) == "cancelled by the client"


async def test_a_cancelled_fetch_ends_its_pause() -> None:
    """A cancelled fetch ends at once: aiokafka waits for it."""

    async def fetch() -> bool:  # as aiokafka's does
        try:
            await asyncio.sleep(1e6)
        except asyncio.CancelledError:
            return False
        return True

    fetcher = SimpleNamespace(_proc_fetch_request=fetch, _fetch_max_wait_ms=200)
    consumer: Any = SimpleNamespace(_fetcher=fetcher)
    back_off_failed_fetches(consumer, pause_s=0.1)
    fetching = asyncio.ensure_future(consumer._fetcher._proc_fetch_request())
    await asyncio.sleep(0.01)
    cancelled_at = asyncio.get_running_loop().time()
    fetching.cancel()
    assert not await fetching
    assert asyncio.get_running_loop().time() == cancelled_at
