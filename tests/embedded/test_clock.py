"""The wall clock of a running service jumps by an hour, both ways; needs libfaketime (in Debian)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fivestage.kafka.embedded_broker import EmbeddedBroker
from fivestage.settings import TopicSettings
from fivestage_schemas import PipelineResult, StageType
from support.checker import read_all, wait_for_results, wait_until_committed
from support.feeder import event, write
from support.process import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.broker, pytest.mark.fault(19)]
TOPICS = TopicSettings()
LIBRARY = Path(
    os.environ.get("FIVESTAGE_LIBFAKETIME", "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
)
HOUR_S = 3600
ROUND = 50
GENEROUS = {
    "pipeline.total_timeout_ms": 4000,
    "pipeline.stage_timeouts_ms": dict.fromkeys(StageType, 1500),
    "adaptive.enabled": False,
}
"""The library reads a file at each call for the time."""


@pytest.fixture
async def bootstrap() -> AsyncIterator[str]:
    """Start an embedded broker with the right time."""
    async with EmbeddedBroker(TOPICS.all, partitions=2) as broker:
        yield broker.bootstrap


@pytest.mark.long  # not for its duration: it needs a library that is rarely installed
@pytest.mark.skipif(not LIBRARY.exists(), reason="libfaketime is not installed (apt install libfaketime)")
async def test_an_hour_forth_and_back(
    bootstrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No deadline moves and nothing is lost: queries are answered, hanging ones end in time."""
    clock = tmp_path / "clock"
    clock.write_text("+0")
    for name, value in {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with ServiceProcess("support.apps:load", bootstrap, GENEROUS) as service:
        for at, offset_s in enumerate((0, HOUR_S, -HOUR_S)):
            names = [f"{offset_s}-{number}" for number in range(ROUND)]
            queries = [
                (name, event(name, "slow" if number % 10 == 0 else "work"))
                for number, name in enumerate(names)
            ]
            write(bootstrap, TOPICS.queries, queries[: ROUND // 2])
            clock.write_text(f"{offset_s:+d}")
            write(bootstrap, TOPICS.queries, queries[ROUND // 2 :])
            await asyncio.to_thread(wait_for_results, bootstrap, TOPICS.results, ROUND * (at + 1))
        await asyncio.to_thread(wait_until_committed, bootstrap, "fivestage", TOPICS.queries, ROUND * 3)
        assert service.end() == 0
    results = [
        PipelineResult.model_validate_json(m.value() or b"") for m in read_all(bootstrap, TOPICS.results)
    ]
    assert len({result.query_id for result in results}) == ROUND * 3
    statuses = {(result.query_id.endswith("0"), str(result.status)) for result in results}
    assert statuses == {(True, "timeout"), (False, "success")}
    assert all(result.metrics.total_duration_ms < 5000 for result in results)
    assert all(result.metrics.queue_ms >= 0 for result in results)
