"""Handling of clients that are cut off from the brokers, over fake clients and a scripted preflight."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from fivestage.errors import ConfigurationError
from fivestage.kafka.connection.diagnosis import INTERVAL_S, MAX_SILENT_CHECKS, Diagnosis
from fivestage.settings import KafkaSettings

if TYPE_CHECKING:
    from fivestage.kafka.connection.rebuild_policy import ClientFault

AWAY = ConfigurationError("cannot reach Kafka")


class Clients:
    """Clients that hear from brokers, or do not."""

    def __init__(self) -> None:
        self.hear = False
        self.rebuilt: list[str] = []
        self.looks = self.renewals = 0

    def all_have_answers(self) -> bool:
        self.looks += 1
        return self.hear

    def rebuild(self, fault: ClientFault) -> None:
        self.rebuilt.append(fault.reason)

    def renew_certificates(self) -> None:
        self.renewals += 1


class Kafka:
    """Brokers as a new client finds them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.problem: ConfigurationError | None = None
        monkeypatch.setattr("fivestage.kafka.connection.diagnosis.preflight", self._preflight)

    async def _preflight(self, _: KafkaSettings) -> None:
        await asyncio.sleep(0.1)
        if self.problem is not None:
            raise self.problem


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    """Brokers that accept new clients."""
    return Kafka(monkeypatch)


async def looks(diagnosis: Diagnosis, clients: Clients, count: float, *, cut_off: bool = True) -> None:
    """Run for a number of checks."""
    task = asyncio.create_task(diagnosis.run(lambda: cut_off, cast("Any", clients)))
    await asyncio.wait({task}, timeout=(count + 0.5) * (INTERVAL_S + 0.1))
    task.cancel()
    await asyncio.wait({task})


@pytest.mark.fault(41)
async def test_clients_that_hear_nothing(kafka: Kafka) -> None:
    """Clients that hear nothing for long while new clients can connect are rebuilt together."""
    diagnosis, clients = Diagnosis(KafkaSettings()), Clients()
    assert kafka.problem is None
    await looks(diagnosis, clients, MAX_SILENT_CHECKS - 1)
    assert clients.rebuilt == []
    await looks(diagnosis, clients, 1)
    assert clients.rebuilt == ["cut_off"]
    await looks(diagnosis, clients, MAX_SILENT_CHECKS - 1)  # the new clients get the same time
    assert clients.rebuilt == ["cut_off"]


@pytest.mark.fault(41)
async def test_clients_that_hear_now_and_then(kafka: Kafka) -> None:
    """Clients that sometimes hear from a broker are not rebuilt: they wait for something else."""
    diagnosis, clients = Diagnosis(KafkaSettings()), Clients()
    assert kafka.problem is None
    for _ in range(3):
        clients.hear = False
        await looks(diagnosis, clients, MAX_SILENT_CHECKS - 1)
        clients.hear = True
        await looks(diagnosis, clients, 1)
    assert clients.rebuilt == []


@pytest.mark.fault(2)
async def test_an_outage_rebuilds_nothing(kafka: Kafka) -> None:
    """While new clients cannot connect either, running ones are kept and the time does not count."""
    diagnosis, clients = Diagnosis(KafkaSettings()), Clients()
    await looks(diagnosis, clients, MAX_SILENT_CHECKS - 1)
    kafka.problem = AWAY
    await looks(diagnosis, clients, 100)
    now = asyncio.get_running_loop().time()
    assert (diagnosis.cause, diagnosis.reach.waited_s(0.0, now)) == ("cannot reach Kafka", 0.0)
    kafka.problem = None
    await looks(diagnosis, clients, MAX_SILENT_CHECKS - 1)
    assert clients.rebuilt == []
    assert diagnosis.cause is None
    assert 0 < diagnosis.reach.waited_s(0.0, asyncio.get_running_loop().time()) < MAX_SILENT_CHECKS * 5


async def test_connected_clients_are_not_checked(kafka: Kafka) -> None:
    """Connected clients are not checked; their certificates are kept fresh."""
    diagnosis, clients = Diagnosis(KafkaSettings()), Clients()
    kafka.problem = AWAY  # a check would find a fault
    await looks(diagnosis, clients, 10, cut_off=False)
    assert (clients.looks, clients.renewals, clients.rebuilt, diagnosis.cause) == (0, 10, [], None)
