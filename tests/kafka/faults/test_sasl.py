"""Credentials and ACLs on a real broker that requires both."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from fivestage.errors import AccessError, ConfigurationError
from fivestage.kafka.connection.diagnosis import Diagnosis
from fivestage.kafka.connection.preflight import preflight
from fivestage.settings import KafkaSettings
from kafka.broker import TopicSet
from kafka.faults.guarded import PASSWORD, ROOT, rights
from support.checker import headers_of
from support.feeder import event
from support.oauth import Issuer, token
from support.process import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kafka.broker import RealBroker
    from kafka.faults.guarded import GuardedBroker

pytestmark = pytest.mark.kafka
QUERY = "canary-query-91ce"
ASKED = {
    "fast": (f"fast {QUERY}", "success"),
    "doubt": (f"fast doubtful {QUERY}", "success"),
    "slow": (f"slow {QUERY}", "timeout"),
    "deaf": (f"deaf {QUERY}", "timeout"),
    "raises": (f"raises {QUERY}", "error"),
    "exits": (f"exits {QUERY}", "error"),
    "garbage": (f"garbage {QUERY}", "error"),
    "unknown": (f"unheard-of {QUERY}", "error"),
    "larger": (f"large 3000000 {QUERY}", "error"),
}


def get(port: int, path: str) -> tuple[int, str]:
    """Return status and body of a page of the admin server."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def wait_until_unready(service: ServiceProcess, reason: str, limit_s: float = 30.0) -> str:
    """Wait until ``/readyz`` is 503 with this in its reason."""
    port = next(line["admin_port"] for line in service.log if line["event"] == "ready")
    end, pause = time.monotonic() + limit_s, threading.Event()
    while True:
        status, text = get(port, "/readyz")
        if status == 503 and reason in text:
            return text
        assert time.monotonic() < end, (status, text)
        pause.wait(0.1)


def test_least_rights_and_no_leaks(guarded: GuardedBroker, capfd: pytest.CaptureFixture[str]) -> None:
    """With the rights of deploy/acls.sh alone everything works, and no output has a secret or a query.

    The client's loggers are at DEBUG, where they would print both; spans go to standard output.
    """
    topics = guarded.topics()
    guarded.admin.write(
        topics.queries,
        [
            *(event(name, text) for name, (text, _) in ASKED.items()),
            event("past", f"fast {QUERY}", deadline="2020-01-01T00:00:00Z"),
            f'{{"query_id":"bad","user_input":7,"{QUERY}":1}}'.encode(),
            f"not json {QUERY}".encode(),
        ],
    )
    settings = guarded.settings(topics, "SCRAM-SHA-512")
    with ServiceProcess(
        "support.chatty:app",
        guarded.broker.bootstrap,
        settings,
        arguments=["--log-level", "DEBUG"],
        environment={
            "OTEL_TRACES_EXPORTER": "console",
            "OTEL_TRACES_SAMPLER": "always_on",
            "PYTHONASYNCIODEBUG": "1",
        },
    ) as service:
        found = guarded.admin.read(topics.results, len(ASKED) + 2)
        guarded.admin.read(topics.dead_letters, 2)
        guarded.admin.read(topics.timeouts, 4)
        port = service.log[-1]["admin_port"]
        pages = [get(port, path)[1] for path in ("/metrics", "/readyz", "/livez", "/", "/nothing")]
        assert service.end() == 0
    statuses = {headers_of(message)["ce_subject"]: headers_of(message)["status"] for message in found}
    expected = {name: status for name, (_, status) in ASKED.items()}
    assert statuses == expected | {"past": "expired", "bad": "error"}
    assert QUERY in b"".join(message.value() or b"" for message in found).decode()
    spans = capfd.readouterr().out
    assert "stage processing" in spans
    assert {"ready", "draining"} <= {line["event"] for line in service.log}
    for where, text in {"logs": json.dumps(service.log), "pages": "".join(pages), "spans": spans}.items():
        assert PASSWORD not in text, where
        assert QUERY not in text, where


def test_the_rights_are_few(tmp_path: Path) -> None:
    """deploy/acls.sh grants Read, Write and DescribeConfigs by literal names, and nothing else."""
    topics = TopicSet("t", 1)
    calls = rights(topics, tmp_path)
    assert len(calls) == 2
    for call in calls:
        assert "--cluster" not in call
        assert call[call.index("--resource-pattern-type") + 1] == "literal"
        given = [call[at + 1] for at, word in enumerate(call) if word == "--operation"]
        assert set(given) <= {"Read", "Write", "DescribeConfigs"}
    assert set(calls[0]) >= {f"--topic={topics.queries}", "--group", "t", "Read"}
    assert {word for word in calls[1] if word.startswith("--topic=")} == {
        f"--topic={name}" for name in topics.names if name != topics.queries
    }


def test_rights_to_several_topics_of_queries(tmp_path: Path) -> None:
    """Each topic of the setting is named."""
    calls = rights(TopicSet("t", 1), tmp_path, queries="orders, returns")
    assert {word for word in calls[0] if word.startswith("--topic=")} == {
        "--topic=orders",
        "--topic=returns",
    }


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RESULTS", "*", "name one"),
        ("QUERIES", "orders,*", "name one"),
        ("QUERIES", r"^orders\.", "name the topics"),
        ("QUERIES", '["orders", "returns"]', "name the topics"),
    ],
)
def test_no_rights_to_everything_or_nothing(name: str, value: str, said: str) -> None:
    """What Kafka takes for all names, or for a name that no topic has, is rejected."""
    done = subprocess.run(
        ["bash", "deploy/acls.sh", "User:service"],
        cwd=ROOT,
        env={**os.environ, "KAFKA_ACLS": "false", f"FIVESTAGE_TOPICS__{name}": value},
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert said in done.stderr.decode()


@pytest.mark.fault(36)
async def test_good_credentials(guarded: GuardedBroker, tmp_path: Path) -> None:
    """Each of the three mechanisms can log in."""
    path = tmp_path / "token"
    path.write_text(token("service", life_s=60))
    for mechanism in ("PLAIN", "SCRAM-SHA-512", "OAUTHBEARER"):
        kafka = guarded.kafka(mechanism, sasl_token_url=path.as_uri())
        await preflight(KafkaSettings.model_validate(kafka))


@pytest.mark.fault(36)
async def test_repeatedly_rejected_credentials(
    guarded: GuardedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that is cut off tries its credentials three times, then exits with Kafka's reason."""
    monkeypatch.setattr("fivestage.kafka.connection.diagnosis.INTERVAL_S", 0.01)
    kafka = KafkaSettings.model_validate(guarded.kafka("SCRAM-SHA-512", sasl_password="wrong"))  # noqa: S106
    diagnosis = Diagnosis(kafka)
    asked = iter([False, True, False, *[True] * 3])  # a client that is not cut off restarts the count
    async with asyncio.timeout(20):
        with pytest.raises(AccessError, match="invalid credentials with SASL mechanism SCRAM-SHA-512"):
            await diagnosis.run(lambda: next(asked))
    assert next(asked, None) is None
    assert "refuses this client" in (diagnosis.cause or "")


@pytest.mark.fault(36)
@pytest.mark.long
def test_a_rotated_password(guarded: GuardedBroker, record_property: Callable[[str, object], None]) -> None:
    """The broker closes old connections: unready with the reason, a bounded end, no query lost.

    Restarted with the new password the service continues where it was.
    """
    topics = guarded.topics()
    guarded.set_password(PASSWORD)
    settings = guarded.settings(topics, "SCRAM-SHA-512")
    try:
        with ServiceProcess("support.apps:load", guarded.broker.bootstrap, settings) as service:
            guarded.admin.write(topics.queries, [event("before", "fast")])
            guarded.admin.read(topics.results, 1)
            guarded.set_password("another")
            wait_until_unready(service, "refuses this client: Authentication failed")
            guarded.admin.write(topics.queries, [event("meanwhile", "fast")])
            assert service.wait(60) == 2
        assert service.log[-1]["event"] == "cannot run"
        assert "invalid credentials with SASL mechanism SCRAM-SHA-512" in service.log[-1]["error"]
        record_property("log lines until the end", len(service.log))
        settings = guarded.settings(topics, "SCRAM-SHA-512", sasl_password="another")  # noqa: S106
        with ServiceProcess("support.apps:load", guarded.broker.bootstrap, settings) as service:
            found = guarded.admin.read(topics.results, 2)
            assert service.end() == 0
    finally:
        guarded.set_password(PASSWORD)
    assert sorted(headers_of(message)["ce_subject"] for message in found) == ["before", "meanwhile"]


@pytest.mark.fault(36)
@pytest.mark.long
def test_tokens_expire_and_their_issuer_hangs(guarded: GuardedBroker) -> None:
    """At a token's expiry the broker disconnects, a new token is used; a hanging issuer is awaited."""
    topics = guarded.topics()
    with Issuer("service", life_s=4) as issuer:
        settings = guarded.settings(topics, "OAUTHBEARER", sasl_token_url=issuer.url)
        with ServiceProcess("support.apps:load", guarded.broker.bootstrap, settings) as service:
            at_start = issuer.issued
            issuer.wait_until_issued(at_start + 2)
            guarded.admin.write(topics.queries, [event("renewed", "fast")])
            guarded.admin.read(topics.results, 1)
            issuer.hanging.set()
            wait_until_unready(service, f"no token from {issuer.url}: it did not answer within 5 s")
            guarded.admin.write(topics.queries, [event("recovered", "fast")])
            issuer.hanging.clear()
            issuer.released.set()
            found = guarded.admin.read(topics.results, 2)
            assert service.end() == 0
    assert sorted({headers_of(message)["ce_subject"] for message in found}) == ["recovered", "renewed"]


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    ("mechanism", "more", "said"),
    [
        ("PLAIN", {"sasl_password": "wrong"}, "Authentication failed: Invalid username or password"),
        (
            "SCRAM-SHA-512",
            {"sasl_password": "wrong"},
            "invalid credentials with SASL mechanism SCRAM-SHA-512",
        ),
        (
            "SCRAM-SHA-512",
            {"sasl_username": "unknown"},
            "invalid credentials with SASL mechanism SCRAM-SHA-512",
        ),
        ("SCRAM-SHA-256", {}, "it does not offer kafka.sasl_mechanism = SCRAM-SHA-256"),
    ],
)
async def test_rejected_credentials(
    guarded: GuardedBroker, mechanism: str, more: dict[str, object], said: str
) -> None:
    """The error is Kafka's own, whatever is wrong with the credentials."""
    with pytest.raises(AccessError) as caught:
        await preflight(KafkaSettings.model_validate(guarded.kafka(mechanism, **more)))
    assert str(caught.value).startswith(f"Kafka at {guarded.broker.bootstrap} refuses this client: ")
    assert said in str(caught.value)
    assert PASSWORD not in str(caught.value)


@pytest.mark.fault(36)
async def test_a_rejected_token(guarded: GuardedBroker, tmp_path: Path) -> None:
    """The client library takes a rejection for a success; the preflight does not."""
    path = tmp_path / "token"
    path.write_text(token("service", life_s=-60))
    kafka = guarded.kafka("OAUTHBEARER", sasl_token_url=path.as_uri())
    with pytest.raises(AccessError, match="the token is not valid for it, or has expired"):
        await preflight(KafkaSettings.model_validate(kafka))
    path.write_text(token("service", life_s=60))
    await preflight(KafkaSettings.model_validate(kafka))


async def test_a_port_without_sasl(kafka: RealBroker, guarded: GuardedBroker) -> None:
    """Credentials are not sent to a port without SASL, nor plain requests to a port with it."""
    without_credentials = {"bootstrap_servers": kafka.bootstrap, "security_protocol": "SASL_PLAINTEXT"}
    with pytest.raises(AccessError, match="its port does not use SASL"):
        await preflight(KafkaSettings.model_validate(guarded.kafka("PLAIN", **without_credentials)))
    with pytest.raises(ConfigurationError, match=r"is kafka\.security_protocol = SSL what"):
        await preflight(KafkaSettings.model_validate(guarded.kafka("PLAIN", security_protocol="SSL")))
