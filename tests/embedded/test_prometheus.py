"""A real Prometheus scrapes a service on the embedded broker, and its alerts fire when something breaks."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from fivestage.observability.metric_table import TABLE
from support.checker import wait_for_results
from support.dashboard import expressions, filled
from support.embedded import Broker, Installation, patient
from support.feeder import Feeder, event, write
from support.jobs import until
from support.probe import get
from support.process import ServiceProcess
from support.programs import program
from support.prometheus import Prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.broker
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED = [("traceparent", f"00-{TRACE_ID}-00f067aa0ba902b7-01".encode())]
PATIENT = patient() | {"adaptive.enabled": True}
NOTHING_WHILE_ALL_IS_WELL = {
    "Breakers opened",
    "Not ready",
    "Stages that did not succeed A",
    "Errors by class A",
    "Rebalances, rebuilt clients, failed commits C",
}
"""What has no values on the dashboard."""
OF_A_FLOOD = {"FivestageLagGrowing", "FivestageNoProgress"}
"""Fire too where a busy machine reads more slowly than ``fire`` writes."""
PIPELINES = "sum(lukhas_matriz_async_pipeline_total)"


@pytest.fixture
def service(place: Installation) -> Iterator[ServiceProcess]:
    """Start a service that has answered ten queries of a sampled trace."""
    program("prometheus")
    with ServiceProcess("support.apps:load", place.bootstrap, place.settings(PATIENT)) as service:
        queries = [(None, event(f"a{number}")) for number in range(10)]
        write(place.bootstrap, place.topics.queries, queries, SAMPLED)
        wait_for_results(place.bootstrap, place.topics.results, 10)
        yield service
        assert service.end() == 0


@pytest.fixture
def prometheus(service: ServiceProcess, tmp_path: Path) -> Iterator[Prometheus]:
    """Start a Prometheus that scrapes the service."""
    with Prometheus(service.log[-1]["admin_port"], tmp_path) as prometheus:
        yield prometheus


def test_promtool_finds_no_fault(service: ServiceProcess) -> None:
    """Prometheus's linter of metrics has nothing to say about the page."""
    page = get(service.log[-1]["admin_port"], "/metrics")[1]
    done = subprocess.run(
        [program("promtool", "prometheus"), "check", "metrics"],
        input=page,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_prometheus_scrapes_the_service(prometheus: Prometheus) -> None:
    """It reads each metric with its type and help, answers a query, and stores the trace of a slow bucket."""
    await until(lambda: prometheus.value(PIPELINES) == 10, "all queries are counted")
    assert prometheus.value("up") == 1
    assert prometheus.value("fivestage_ready") == 1
    assert prometheus.value("fivestage_budget_seconds") == 20
    calls = 'fivestage_node_calls_total{lane="prod",node="work",outcome="success"}'
    assert prometheus.value(calls) == 10
    [target] = prometheus.ask("targets")["activeTargets"]
    assert target["lastError"] == ""
    assert prometheus.value("scrape_samples_scraped") < 400
    described = {name: found[0] for name, found in prometheus.ask("metadata").items()}
    for spec in TABLE:
        known = described.get(spec.name) or described[spec.name.removesuffix("_total")]
        assert (known["type"], known["help"]) == (spec.kind, spec.meaning), spec.name
    for name in ("lukhas_matriz_async_pipeline_duration_seconds", "fivestage_node_call_duration_seconds"):
        found = prometheus.ask("query_exemplars", query=f"{name}_bucket", start="0", end="9999999999")
        ids = {one["labels"]["trace_id"] for series in found for one in series["exemplars"]}
        assert ids == {TRACE_ID}, name


async def test_prometheus_answers_the_dashboard(place: Installation, prometheus: Prometheus) -> None:
    """It evaluates each expression of the dashboard; those about healthy work have values."""
    await until(lambda: prometheus.value(PIPELINES) == 10, "all queries are counted")
    with Feeder(place.bootstrap, place.topics.queries, count=100, rate=25):
        rate = "sum(rate(lukhas_matriz_async_pipeline_total[1m]))"
        await until(lambda: prometheus.value(rate) > 0, "queries are counted while it scrapes")

    def without() -> set[str]:
        return {title for title, expression in expressions() if not prometheus.values(filled(expression))}

    await until(lambda: without() == NOTHING_WHILE_ALL_IS_WELL, "all others have values at one time")


async def fire(place: Installation, prometheus: Prometheus, alerts: set[str], values: list[bytes]) -> None:
    """Write records again and again until these alerts fire."""

    def fires() -> bool:
        write(place.bootstrap, place.topics.queries, [(None, value) for value in values])
        return alerts <= prometheus.firing()

    await until(fires, f"{sorted(alerts)} fire")


async def test_a_failing_node_makes_alerts_fire(place: Installation, prometheus: Prometheus) -> None:
    """Nothing fires while all is well; a node that fails opens its breaker and burns the error budget."""
    await until(lambda: prometheus.value(PIPELINES) == 10, "all queries are counted")
    await until(lambda: prometheus.firing() == set(), "nothing fires, as the service is found")
    wanted = {"FivestageBreakerOpen"} | {f"FivestageErrorBudgetBurn{factor}x" for factor in (14, 6, 1)}
    await fire(place, prometheus, wanted, [event("x", "raises")] * 10)
    assert prometheus.firing() - OF_A_FLOOD == wanted
    [[labels, state]] = prometheus.values("fivestage_breaker_state > 0").items()
    assert (("lane", "prod") in labels, ("node", "raises") in labels, state >= 1) == (True, True, True)
    assert prometheus.value("fivestage:not_in_time:ratio_rate5m") > 0.9


async def test_a_lost_broker_makes_an_alert_fire(tmp_path: Path) -> None:
    """A service whose broker is gone is not ready, and says so in its metrics as long as that lasts."""
    with Broker() as broker:
        place = broker.installation()
        with (
            ServiceProcess("support.apps:load", place.bootstrap, place.settings(PATIENT)) as service,
            Prometheus(service.log[-1]["admin_port"], tmp_path) as prometheus,
        ):
            await until(lambda: prometheus.value("fivestage_ready") == 1, "it is ready")
            broker.__exit__()
            await until(lambda: "FivestageNotReady" in prometheus.firing(), "the alert fires")
            assert prometheus.value("up") == 1
            assert get(service.log[-1]["admin_port"], "/readyz")[0] == 503


async def test_a_blocking_node_makes_an_alert_fire(place: Installation, tmp_path: Path) -> None:
    """A node that blocks its event loop is named by the alert, while its answers are in time."""
    settings = place.settings({**PATIENT, "executor.stall_ms": 50})
    with (
        ServiceProcess("support.pipelines:app", place.bootstrap, settings) as service,
        Prometheus(service.log[-1]["admin_port"], tmp_path) as prometheus,
    ):
        alert = "FivestageEventLoopsBlocked"
        await until(lambda: prometheus.value("fivestage_ready") == 1, "it is scraped")
        with Feeder(place.bootstrap, place.topics.queries, count=40, rate=4, user_input="hogs"):
            await until(lambda: alert in prometheus.firing(), "the alert fires")
        [labels] = prometheus.values(f'ALERTS{{alertname="{alert}"}}')
        assert ("node", "hogs") in labels
        assert prometheus.value("fivestage:not_in_time:ratio_rate5m") == 0


async def test_rubbish_makes_an_alert_fire(place: Installation, prometheus: Prometheus) -> None:
    """Records that cannot be read make the alert about dead letters fire, and no other."""
    await until(lambda: prometheus.value(PIPELINES) == 10, "all queries are counted")
    await until(lambda: prometheus.firing() == set(), "nothing fires, as the service is found")
    await fire(place, prometheus, {"FivestageDeadLetters"}, [b"rubbish"])
    assert prometheus.firing() - OF_A_FLOOD == {"FivestageDeadLetters"}
    assert prometheus.value('sum(fivestage_dead_letters_total{reason="not_json"})') >= 1
