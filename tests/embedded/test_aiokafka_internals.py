"""Private names of aiokafka: used in one module, listed, and checked at the start."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.fetcher import Fetcher

from fivestage.errors import ConfigurationError
from fivestage.kafka import aiokafka_check
from fivestage.kafka.consumer.client import when_throttled

BUS = Path(__file__).parents[2] / "consumer" / "fivestage"
OWN = {
    "executors/code_location.py",
    "observability/http_connections.py",
    "observability/logging.py",
    "settings.py",
}
"""Modules that use a private name of something else, or in a class method one of their own."""


def test_all_private_names_are_listed() -> None:
    """The list has exactly the names that are used."""
    tree = ast.parse((BUS / "kafka" / "aiokafka_internals.py").read_text(encoding="utf-8"))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    private = {name for name in used if name.startswith("_") and not name.startswith("__")}
    assert private == {name for names in aiokafka_check.NAMES.values() for name in names}


def test_no_other_module_uses_one() -> None:
    """The linter forbids private names where no comment permits them."""
    permitted = [path for path in BUS.rglob("*.py") if "SLF001" in path.read_text(encoding="utf-8")]
    assert {str(path.relative_to(BUS)) for path in permitted} == OWN | {"kafka/aiokafka_internals.py"}


def test_the_installed_version_has_them() -> None:
    """The installed version has all names, as any version must that the service starts on."""
    aiokafka_check.check_installed_aiokafka()


def test_a_version_without_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version without one of the names is rejected by that name, before connecting."""
    monkeypatch.setitem(aiokafka_check.NAMES, Fetcher, ("_records", "_gone"))
    with pytest.raises(ConfigurationError, match=r"aiokafka .* lacks Fetcher\._gone"):
        aiokafka_check.check_installed_aiokafka()


async def test_throttling_is_noticed() -> None:
    """Throttling is noticed for any request of a consumer, only where the response says so."""
    answers = [SimpleNamespace(throttle_time_ms=250), SimpleNamespace(throttle_time_ms=0), SimpleNamespace()]
    waits: list[float] = []

    async def send(number: int, *, group: int) -> object:
        assert group == 1
        return answers[number]

    consumer: Any = SimpleNamespace(_client=SimpleNamespace(send=send))
    when_throttled(consumer, waits.append)
    assert [await consumer._client.send(number, group=1) for number in range(3)] == answers
    assert waits == [0.25]
