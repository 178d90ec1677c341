"""Connects to a broker step by step to find out why it fails; aiokafka only says "unable to bootstrap"."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import (
    AuthenticationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from fivestage._asyncio import first_of
from fivestage.errors import AccessError, ConfigurationError
from fivestage.kafka.connection.connection import client_options, connection_options, ssl_context
from fivestage.kafka.settings import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiokafka.protocol.api import Request

    from fivestage.settings import KafkaSettings

CONNECT_TIMEOUT_S: Final = 5.0
HANDSHAKE_TIMEOUT_S: Final = 10.0
ALERT_TIMEOUT_S: Final = 2.0
CLOSE_TIMEOUT_S: Final = 0.5
MAX_PORT: Final = 65_535
_NOT_KAFKA: Final = (AssertionError, ValueError, EOFError)
"""What aiokafka raises, besides Kafka errors, when the server does not speak Kafka's protocol."""
_TOKEN_REJECTED: Final = "the token is not valid for it, or has expired"  # noqa: S105 - no token
"""aiokafka ignores that the broker rejects a token; the answer to the next request is then empty."""


class Reached(NamedTuple):
    """The bootstrap server that answered first."""

    server: str
    """``host:port``, as in the setting."""
    brokers: list[tuple[str, int]]
    """Host and port of all brokers, as it advertises them."""


async def preflight(kafka: KafkaSettings) -> Reached:
    """Resolve, connect, encrypt and authenticate, up to the first answer of a broker.

    Tries all bootstrap servers at the same time; the first answer counts, so a silent server delays nothing.

    Raises:
        AccessError: a server was reached and rejects this client.
        ConfigurationError: no bootstrap server can be used; the text has the cause for the last in the list.
    """
    servers = [_parse_server(server.strip()) for server in kafka.bootstrap_servers.split(",")]
    steps = [_reach(kafka, server, host, port) for server, host, port in servers]
    return await first_of(steps, prefer=AccessError)  # a rejection says more than another server's silence


async def answering_server(kafka: KafkaSettings) -> str:
    """The ``host:port`` of the bootstrap server that answers first; see preflight."""
    return (await preflight(kafka)).server


async def reachable_options(kafka: KafkaSettings) -> dict[str, Any]:
    """The options of a client that bootstraps from the server that answers first; see preflight."""
    return {**client_options(kafka), "bootstrap_servers": await answering_server(kafka)}


def _parse_server(server: str) -> tuple[str, str, int]:
    host, _, port = server.rpartition(":")
    if not host or not (port.isdecimal() and 0 < int(port) <= MAX_PORT) or not _is_name(host):
        raise ConfigurationError(f"kafka.bootstrap_servers: {server!r} is not host:port")
    return server, host.strip("[]"), int(port)


def _is_name(host: str) -> bool:
    """Whether a resolver can be asked for it: no label of a name is empty, or longer than 63 bytes."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


async def _reach(kafka: KafkaSettings, server: str, host: str, port: int) -> Reached:
    """Try one server; errors name it."""
    try:
        return Reached(server, await _try(kafka, host, port) or [(host, port)])
    except AccessError as rejection:
        raise AccessError(f"Kafka at {server} refuses this client: {rejection}") from None
    except ConfigurationError as problem:
        raise ConfigurationError(
            f"cannot reach Kafka at {server}: {problem}. Check kafka.bootstrap_servers, or start "
            'a broker to try things out with "fivestage broker"'
        ) from None


async def _try(kafka: KafkaSettings, host: str, port: int) -> list[tuple[str, int]]:
    """Open a connection, then one that speaks Kafka; returns the addresses that the server advertises."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
    except TimeoutError:
        raise ConfigurationError(f"no answer within {CONNECT_TIMEOUT_S:.0f} s") from None
    except socket.gaierror:
        raise ConfigurationError("the host name is not known") from None
    except ConnectionRefusedError:
        raise ConfigurationError("connection refused, nothing listens there") from None
    except OSError as error:
        raise ConfigurationError(error.strerror or type(error).__name__) from None
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            return await _handshake(kafka, host, port)
    except TimeoutError:
        raise ConfigurationError(
            f"it accepts connections but does not answer within {HANDSHAKE_TIMEOUT_S:.0f} s"
        ) from None
    except KafkaConnectionError as error:
        raise await _why_closed(kafka, host, port, error) from None
    except (KafkaError, OSError, *_NOT_KAFKA) as error:
        raise _explained(error, kafka) from None


async def ask(kafka: KafkaSettings, host: str, port: int, request: Request[Any]) -> Any:
    """Send one request to one broker, on a new connection; returns the answer.

    Raises:
        KafkaError, OSError: the broker does not answer, or rejects this client.
    """
    connection = AIOKafkaConnection(host, port, **connection_options(kafka))
    try:
        await connection.connect()
        return await connection.send(request)
    finally:
        if (closed := connection.close()) is not None:  # the TLS shutdown needs a roundtrip
            await asyncio.wait({closed}, timeout=CLOSE_TIMEOUT_S)


async def _handshake(kafka: KafkaSettings, host: str, port: int) -> list[tuple[str, int]]:
    answer = await ask(kafka, host, port, MetadataRequest([]))
    if kafka.sasl_mechanism == "OAUTHBEARER" and not answer.brokers:
        raise AccessError(_TOKEN_REJECTED)
    if kafka.security_protocol.endswith("PLAINTEXT") and not kafka.allow_plaintext:
        _check_addresses(answer.brokers)
    return [(host, port) for _, host, port, *_ in answer.brokers]


def _check_addresses(brokers: Iterable[tuple[int, str, int]]) -> None:
    """Reject brokers on other hosts, which a bootstrap server on this host may advertise."""
    away = next((f"{host}:{port}" for _, host, port, *_ in brokers if not is_loopback(host)), None)
    if away is not None:
        raise ConfigurationError(
            f"it sends clients on to {away}, where queries would go unencrypted: set kafka.security_protocol "
            "to SSL or SASL_SSL, or kafka.allow_plaintext = true inside a trusted network"
        )


async def _why_closed(
    kafka: KafkaSettings, host: str, port: int, error: KafkaConnectionError
) -> ConfigurationError:
    """Find out why the server closed the connection. In TLS 1.3 it does so to reject a certificate.

    The alert may be lost when a request is in flight, so connect again and only listen.
    """
    cause: BaseException | None = error.__cause__
    context = ssl_context(kafka)
    if context is not None and not isinstance(cause, ssl.SSLError):
        try:
            await _listen(host, port, context)
        except OSError as alert:
            cause = alert
    if isinstance(cause, ssl.SSLError):
        return _explained(cause, kafka)
    return ConfigurationError(
        "it closed the connection at the first request: is kafka.security_protocol = "
        f"{kafka.security_protocol} what this port expects?"
    )


async def _listen(host: str, port: int, context: ssl.SSLContext) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ALERT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            try:
                await reader.read(1)
            finally:
                writer.transport.abort()


def _explained(error: Exception, kafka: KafkaSettings) -> ConfigurationError:  # noqa: PLR0911 - a table
    match error:
        case ssl.SSLCertVerificationError():
            return AccessError(f"the server's certificate is not trusted ({error.verify_message})")
        case ssl.SSLError() if re.search("ALERT.*(CERTIFICATE|UNKNOWN_CA)", str(error.reason)):
            return AccessError(_about_our_certificate(error.reason, kafka))
        case ssl.SSLError() | ConnectionError() if kafka.security_protocol.endswith("SSL"):
            reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
            return ConfigurationError(f"TLS failed ({reason}); does the port speak TLS?")
        case SaslAuthenticationFailed():
            return AccessError(f"{error.args[0] or 'authentication failed'}")
        case AuthenticationFailedError():  # raised by oauth.py, before Kafka was reached
            return ConfigurationError(str(error.args[0]))
        case UnsupportedSaslMechanismError():
            return AccessError(f"it does not offer kafka.sasl_mechanism = {kafka.sasl_mechanism}")
        case IllegalSaslStateError():
            return AccessError("its port does not use SASL: see kafka.security_protocol")
        case OSError():
            return ConfigurationError(error.strerror or type(error).__name__)
    return ConfigurationError(f"it does not answer like Kafka ({type(error).__name__})")


def _about_our_certificate(reason: str, kafka: KafkaSettings) -> str:
    if kafka.ssl_certfile is None:
        return f"it asks for a client certificate ({reason}): set kafka.ssl_certfile and kafka.ssl_keyfile"
    return f"it does not accept the certificate in kafka.ssl_certfile ({reason})"
