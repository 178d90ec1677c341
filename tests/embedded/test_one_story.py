"""When something breaks, the status page, ``fivestage top``, the alerts and the log say the same."""

from __future__ import annotations

import html
import re
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from support.embedded import Broker, Installation, patient
from support.feeder import Feeder, event, write
from support.jobs import until
from support.preloaded import run
from support.probe import get
from support.process import TESTS, ServiceProcess
from support.programs import program
from support.prometheus import Prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

pytestmark = pytest.mark.broker
PATIENT = patient() | {"adaptive.enabled": True}


class Views:
    """What an operator looks at, of one service."""

    def __init__(self, service: ServiceProcess, prometheus: Prometheus) -> None:
        self._service = service
        self._port = next(line for line in service.log if line["event"] == "ready")["admin_port"]
        self._prometheus = prometheus

    def page(self) -> str:
        """Return the text of the status page, as it is without JavaScript."""
        code, body = get(self._port, "/")
        assert code == 200, body
        return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())

    def top(self) -> str:
        """Return a frame of ``fivestage top``."""
        command = [sys.executable, "-m", "fivestage", "top", f"127.0.0.1:{self._port}", "--once"]
        done = run(command, cwd=TESTS, timeout=60)
        assert done.returncode == 0, done.stderr
        return " ".join(done.stdout.split())

    def logged(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of the log with this event."""
        return [line for line in self._service._read_so_far() if line["event"] == name]

    def show_neither(self, page: str, top: str) -> None:
        """Check that the texts do not match a service in which nothing has happened."""
        assert not re.search(page, self.page())
        assert not re.search(top, self.top())

    async def agree(self, *, alert: str, event: str, page: str, top: str) -> None:
        """Wait until all say what has happened: an alert fires, a line is logged, texts match."""
        await until(lambda: alert in self._prometheus.firing(), f"{alert} fires")
        await until(lambda: self.logged(event), f"{event!r} is logged")
        await until(lambda: re.search(page, self.page()), f"the page has {page!r}")
        await until(lambda: re.search(top, self.top()), f"top has {top!r}")
        await until(lambda: event in self.page(), f"the page has {event!r} among what changed")


@pytest.fixture
def broker() -> Iterator[Broker]:
    """Start a broker that the test may end."""
    program("prometheus")
    with Broker() as broker:
        yield broker


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """End what the test has started."""
    with ExitStack() as stack:
        yield stack


def views_of(
    place: Installation,
    stack: ExitStack,
    folder: Path,
    settings: Mapping[str, object] | None = None,
    app: str = "support.apps:load",
) -> Views:
    """Start a service, and a Prometheus that scrapes it."""
    service = ServiceProcess(app, place.bootstrap, place.settings({**PATIENT, **(settings or {})}))
    stack.enter_context(service)
    return Views(service, stack.enter_context(Prometheus(service.log[-1]["admin_port"], folder)))


async def test_the_broker_is_gone(broker: Broker, stack: ExitStack, tmp_path: Path) -> None:
    """Not ready, with the same reason everywhere."""
    views = views_of(broker.installation(), stack, tmp_path)
    await until(lambda: "ready" in views.page(), "it is ready")
    unready = "unready.*cannot reach Kafka"
    views.show_neither(unready, unready)
    broker.__exit__()
    await views.agree(alert="FivestageNotReady", event="Kafka is out of reach", page=unready, top=unready)


async def test_a_node_fails(broker: Broker, stack: ExitStack, tmp_path: Path) -> None:
    """The node, its breaker, and where its code raised."""
    place = broker.installation()
    views = views_of(place, stack, tmp_path)
    where = r"raises.*(half.open|open).*ValueError.*apps\.py:\d+"
    views.show_neither(where, where)

    def opens() -> bool:
        write(place.bootstrap, place.topics.queries, [(None, event("x", "raises"))] * 10)
        return bool(views.logged("breaker opened"))

    await until(opens, "the breaker opens")
    await views.agree(alert="FivestageBreakerOpen", event="breaker opened", page=where, top=where)
    assert {line["node"] for line in views.logged("breaker opened")} == {"raises"}
    [failed] = views.logged("node failed")[:1]
    assert (failed["node"], failed["error_type"]) == ("raises", "ValueError")


async def test_a_node_blocks(broker: Broker, stack: ExitStack, tmp_path: Path) -> None:
    """Blocked event loops are counted, and the log names the code."""
    place = broker.installation()
    views = views_of(place, stack, tmp_path, {"executor.stall_ms": 50}, "support.pipelines:app")

    page, top = r"Workers: replaced [\d ]+, blocked [1-9]", r"WORKERS replaced \d+, blocked [1-9]"
    views.show_neither(page, top)
    with Feeder(place.bootstrap, place.topics.queries, count=80, rate=4, user_input="hogs"):
        await views.agree(alert="FivestageEventLoopsBlocked", event="event loop blocked", page=page, top=top)
    warned = [line for line in views.logged("event loop blocked") if line["level"] == "warning"]
    assert {line["node"] for line in warned} == {"hogs"}  # of loops without CPU the level is info


async def test_a_flood_of_rubbish(broker: Broker, stack: ExitStack, tmp_path: Path) -> None:
    """Its partition is halted."""
    place = broker.installation()
    views = views_of(place, stack, tmp_path, {"dlq.max_consecutive": 20, "dlq.pause_ms": 600_000})
    page, top = r"Partition \S+ is halted", r"PARTITIONS \S+/\d+ halted"
    views.show_neither(page, top)
    write(place.bootstrap, place.topics.queries, [("k", b"rubbish")] * 200)
    await views.agree(alert="FivestagePartitionHalted", event="partition halted", page=page, top=top)


async def test_half_of_the_capacity(broker: Broker, stack: ExitStack, tmp_path: Path) -> None:
    """One of two instances ends: the other one gets all partitions, and the lag rises."""
    place = broker.installation()
    limits = {"admission.max_in_flight": 1, "admission.adaptive_limit": False, "admission.shed": "off"}
    other = ServiceProcess("support.apps:load", place.bootstrap, place.settings({**PATIENT, **limits}))
    with other:
        views = views_of(place, stack, tmp_path, limits)
    page, top = r"lag \d[\d ]*, rising", r"LAG \d+ records, rising"
    views.show_neither(page, top)
    with Feeder(place.bootstrap, place.topics.queries, count=6000, rate=200):
        await views.agree(alert="FivestageLagGrowing", event="assigned", page=page, top=top)
        assert sorted(views.logged("assigned")[-1]["partitions"]) == [0, 1, 2, 3]
