"""TLS with a real broker that requires client certificates, and with servers of a wrong identity."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import pytest

from fivestage.errors import AccessError, ConfigurationError
from fivestage.kafka.connection.connection import ssl_context
from fivestage.kafka.connection.preflight import preflight
from fivestage.settings import KafkaSettings
from kafka.conftest import _lend
from kafka.test_service import settings_for
from support.certificates import Authority
from support.feeder import event
from support.process import ServiceProcess
from support.proxy import Proxy
from support.secured import SecuredClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kafka.broker import RealBroker

pytestmark = [pytest.mark.kafka, pytest.mark.fault(35)]


class Secured(NamedTuple):
    """A broker with TLS only, and the authority that it trusts."""

    bootstrap: str
    authority: Authority
    certificate: Path
    key: Path

    def kafka(self, **more: object) -> dict[str, object]:
        """Build settings of a client that the broker accepts."""
        good = {
            "bootstrap_servers": self.bootstrap,
            "security_protocol": "SSL",
            "ssl_cafile": str(self.authority.file),
            "ssl_certfile": str(self.certificate),
            "ssl_keyfile": str(self.key),
        }
        return {**good, **more}


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Start a broker with mutual TLS."""
    authority = Authority(tmp_path_factory.mktemp("tls"))
    properties = {
        "listener.security.protocol.map": "CLIENT:SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "listener.name.client.ssl.client.auth": "required",
        **authority.broker_properties("127.0.0.1"),
    }
    for broker in _lend(properties=properties):
        yield Secured(broker.bootstrap, authority, *authority.client("service"))


async def rejection(**kafka: object) -> str:
    """Return the preflight's error for these settings."""
    with pytest.raises(ConfigurationError) as caught:
        await preflight(KafkaSettings.model_validate(kafka))
    kind = "refused" if isinstance(caught.value, AccessError) else "wrong"
    return f"{kind}: {caught.value}"


def test_mutual_tls(secured: Secured) -> None:
    """With a trusted certificate the service answers over TLS."""
    options = {
        "security.protocol": "ssl",
        "ssl.ca.location": str(secured.authority.file),
        "ssl.certificate.location": str(secured.certificate),
        "ssl.key.location": str(secured.key),
    }
    client = SecuredClient(secured.bootstrap, options)
    topics = client.create_topics()
    client.write(topics.queries, [event(f"q{n}", "fast") for n in range(20)])
    settings = {f"kafka.{name}": value for name, value in secured.kafka().items()} | settings_for(topics)
    with ServiceProcess("support.apps:load", secured.bootstrap, settings) as service:
        assert len(client.read(topics.results, 20)) == 20
        assert service.end() == 0


async def test_no_client_certificate(secured: Secured) -> None:
    """The broker's rejection is reported with the setting, although the TLS 1.3 handshake succeeds."""
    said = await rejection(**secured.kafka(ssl_certfile=None, ssl_keyfile=None))
    assert said.startswith(f"refused: Kafka at {secured.bootstrap} refuses this client: ")
    assert "it asks for a client certificate" in said
    assert "set kafka.ssl_certfile and kafka.ssl_keyfile" in said


async def test_a_client_certificate_of_an_unknown_authority(secured: Secured, tmp_path: Path) -> None:
    """A certificate of an authority unknown to the broker is rejected."""
    certificate, key = Authority(tmp_path, "stranger").client("service")
    said = await rejection(**secured.kafka(ssl_certfile=str(certificate), ssl_keyfile=str(key)))
    assert "it does not accept the certificate in kafka.ssl_certfile" in said


async def test_a_server_of_an_authority_that_is_not_trusted(secured: Secured, tmp_path: Path) -> None:
    """The broker's certificate is checked against kafka.ssl_cafile alone."""
    said = await rejection(**secured.kafka(ssl_cafile=str(Authority(tmp_path, "other").file)))
    assert "refused: " in said
    assert "certificate is not trusted (unable to get local issuer certificate)" in said


@pytest.mark.parametrize(
    ("name", "age", "reason"),
    [
        ("kafka.test", None, "IP address mismatch, certificate is not valid for '127.0.0.1'"),
        ("127.0.0.1", timedelta(hours=1), "certificate has expired"),
    ],
)
async def test_a_server_with_a_wrong_certificate(
    kafka: RealBroker, tmp_path: Path, name: str, age: timedelta | None, reason: str
) -> None:
    """A certificate for another host, or an expired one, is rejected before a byte reaches the broker."""
    authority = Authority(tmp_path)
    not_after = datetime.now(UTC) - age if age is not None else None
    with Proxy(kafka.bootstrap, tls=authority.server_context(name, not_after=not_after)) as proxy:
        said = await rejection(
            bootstrap_servers=proxy.address, security_protocol="SSL", ssl_cafile=str(authority.file)
        )
        assert proxy.passed_on == 0
    assert f"refused: Kafka at {proxy.address}" in said
    assert reason in said


async def test_the_same_server_with_a_good_certificate(kafka: RealBroker, tmp_path: Path) -> None:
    """The proxy of the tests above is accepted when its certificate is good."""
    authority = Authority(tmp_path)
    with Proxy(kafka.bootstrap, tls=authority.server_context("127.0.0.1")) as proxy:
        kafka_settings = KafkaSettings(
            bootstrap_servers=proxy.address, security_protocol="SSL", ssl_cafile=authority.file
        )
        await preflight(kafka_settings)
        assert proxy.passed_on > 0


async def test_tls_to_a_plain_port(kafka: RealBroker, secured: Secured) -> None:
    """There is no fallback to plain text: the error names the protocol that the port lacks."""
    said = await rejection(**secured.kafka(bootstrap_servers=kafka.bootstrap))
    assert "TLS failed" in said
    assert "does the port speak TLS?" in said


async def test_plain_text_to_a_tls_port(secured: Secured) -> None:
    """Plain text to a TLS port fails, naming the setting that does not match the port."""
    said = await rejection(bootstrap_servers=secured.bootstrap)
    assert (
        "it closed the connection at the first request: is kafka.security_protocol = PLAINTEXT what" in said
    )


def test_the_service_ends_with_the_reason(secured: Secured) -> None:
    """A rejected start exits with 2 and one log line with the reason."""
    given = secured.kafka(ssl_certfile=None, ssl_keyfile=None)
    settings = {f"kafka.{name}": value for name, value in given.items() if value is not None}
    service = ServiceProcess("support.apps:load", secured.bootstrap, settings)
    service.launch()
    assert service.wait(25) == 2
    assert "it asks for a client certificate" in service.log[-1]["error"]
    assert service.log[-1]["event"] == "cannot run"


def test_checks_cannot_be_turned_off(tmp_path: Path) -> None:
    """Certificates and host names are checked, TLS is at least 1.2, and no setting turns that off."""
    context = ssl_context(KafkaSettings(security_protocol="SSL", ssl_cafile=Authority(tmp_path).file))
    assert context is not None
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert not [name for name in KafkaSettings.model_fields if "verify" in name or "insecure" in name]
