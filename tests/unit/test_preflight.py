"""The preflight check against servers that are not Kafka, and advertised addresses elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization

from fivestage.errors import ConfigurationError
from fivestage.kafka.connection import preflight as checks
from fivestage.kafka.connection.connection import connection_options, ssl_context
from fivestage.kafka.connection.preflight import preflight
from fivestage.kafka.embedded_broker import EmbeddedBroker
from fivestage.kafka.tools.client import QueryProducer, follow
from fivestage.kafka.topics import check, largest_records
from fivestage.settings import KafkaSettings, Settings, TopicSettings
from support.certificates import Authority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            b"",
            "it closed the connection at the first request: is kafka.security_protocol = PLAINTEXT what",
        ),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it closed the connection at the first request"),
        (b"\x00\x00\x00\x04\xff\xff\xff\xff", "it does not answer like Kafka (CorrelationIdError)"),
        (b"\x00\x00\x00\x06\x00\x00\x00\x01\x00\x00", "it closed the connection at the first request"),
        (None, "it accepts connections but does not answer within 0 s"),
    ],
    ids=["nothing", "HTTP", "another correlation id", "too short", "silence"],
)
async def test_servers_that_are_not_kafka(
    answer: bytes | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is one line and comes within a time limit, whatever listens there."""
    monkeypatch.setattr(checks, "HANDSHAKE_TIMEOUT_S", 0.3)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            if await reader.read(4) and answer is not None:
                writer.write(answer)
                await writer.drain()
            else:
                await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(ConfigurationError) as caught:
            await preflight(KafkaSettings(bootstrap_servers=address))
    assert f"cannot reach Kafka at {address}: {said}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_brokers_elsewhere() -> None:
    """A local broker that advertises other hosts is rejected: queries would go there unencrypted."""
    checks._check_addresses([(1, "localhost", 9092), (2, "127.0.0.1", 9092), (3, "::1", 9092)])
    with pytest.raises(ConfigurationError, match=r"it sends clients on to broker\.example:9092, where"):
        checks._check_addresses([(1, "localhost", 9092), (2, "broker.example", 9092)])


def test_an_encrypted_key(tmp_path: Path) -> None:
    """The key's password is a setting; without it there is no prompt at the terminal."""
    authority = Authority(tmp_path)
    certificate, key = authority.client("service")
    loaded = serialization.load_pem_private_key(key.read_bytes(), password=None)
    key.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"sesame"),
        )
    )
    given = {"security_protocol": "SSL", "ssl_cafile": authority.file, "ssl_certfile": certificate}
    for password, said in (
        (None, "set kafka.ssl_key_password"),
        ("wrong", "cannot use the certificate files"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            ssl_context(
                KafkaSettings.model_validate({**given, "ssl_keyfile": key, "ssl_key_password": password})
            )
    kafka = KafkaSettings.model_validate({**given, "ssl_keyfile": key, "ssl_key_password": "sesame"})
    assert ssl_context(kafka) is not None
    assert "sesame" not in f"{kafka!r} {kafka.model_dump(mode='json')}"


def test_no_credentials_without_sasl() -> None:
    """A configured password is not passed to a client without SASL."""
    kafka = KafkaSettings.model_validate({"sasl_username": "u", "sasl_password": "p"})
    assert not [name for name in connection_options(kafka) if name.startswith("sasl")]


@contextlib.asynccontextmanager
async def silent_server() -> AsyncIterator[str]:
    """Accept connections and send nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.broker
@pytest.mark.fault(37)
async def test_a_silent_bootstrap_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """All servers are asked concurrently: a silent one delays nothing, wherever it is listed."""
    for name in ("CONNECT_TIMEOUT_S", "HANDSHAKE_TIMEOUT_S"):
        monkeypatch.setattr(checks, name, 3600.0)
    topics = TopicSettings()
    async with silent_server() as silent, EmbeddedBroker(topics.all, partitions=2) as broker:
        for servers in (f"{broker.bootstrap},{silent}", f"{silent},{broker.bootstrap}"):
            settings = Settings.load(None, {"kafka": {"bootstrap_servers": servers}})
            assert (await preflight(settings.kafka)).server == broker.bootstrap
            assert set(await check(settings)) == set(topics.all)
            async with QueryProducer(settings) as producer:
                await producer.send(b'{"query_id": "a", "user_input": "fast"}')
            results = [
                record async for record in follow(settings, topics.queries, from_beginning=True, to_end=True)
            ]
            assert results


@pytest.mark.fault(37)
async def test_a_broker_that_is_silent_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Topic limits are read or unknown; where no broker answers the start fails."""
    monkeypatch.setattr("fivestage.kafka.topic_info.ANSWER_TIMEOUT_S", 0.3)
    async with silent_server() as silent:
        host, _, port = silent.rpartition(":")

        async def reached(_: KafkaSettings) -> checks.Reached:
            return checks.Reached(silent, [(host, int(port))])

        monkeypatch.setattr("fivestage.kafka.topic_info.preflight", reached)
        settings = Settings.load(None, {"kafka": {"bootstrap_servers": silent}})
        with pytest.raises(ConfigurationError, match="accepts connections but does not answer"):
            await largest_records(settings)


@pytest.mark.fault(37)
async def test_brokers_that_are_gone_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where all brokers refuse connections; each is named."""

    async def reached(_: KafkaSettings) -> checks.Reached:
        return checks.Reached("127.0.0.1:1", [("127.0.0.1", 1)])

    monkeypatch.setattr("fivestage.kafka.topic_info.preflight", reached)
    for ask in (largest_records, check):
        with pytest.raises(ConfigurationError, match=r"cannot talk to Kafka at .*127\.0\.0\.1:1: "):
            await ask(Settings())
