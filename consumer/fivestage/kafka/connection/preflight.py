"""The preflight: why a connection fails. The client itself says "unable to bootstrap", whatever the cause."""

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
_NONSENSE: Final = (AssertionError, ValueError, EOFError)
"""What the client raises, beside errors of Kafka's, over answers that are none of Kafka's."""
_TOKEN_REFUSED: Final = "the token is not valid for it, or has expired"  # noqa: S105 - no token
"""The client overlooks the broker's refusal and goes on; the answer to what it asks then is empty."""


class Reached(NamedTuple):
    """A bootstrap server that has answered."""

    server: str
    """Its ``host:port``, as in the setting."""
    brokers: list[tuple[str, int]]
    """Where it sends clients on to."""


async def preflight(kafka: KafkaSettings) -> Reached:
    """Go all the way to a broker's first answer, as every client will: resolve, connect, encrypt, log in.

    All bootstrap servers are tried side by side, and the first answer counts: a silent one costs nothing.

    Raises:
        AccessError: a server was reached, and refuses this client.
        ConfigurationError: no bootstrap server can be used; the text names the cause of the last one.
    """
    places = [_place(server.strip()) for server in kafka.bootstrap_servers.split(",")]
    steps = [_reach(kafka, server, host, port) for server, host, port in places]
    return await first_of(steps, prefer=AccessError)  # it says more than that another one is down


async def answering_server(kafka: KafkaSettings) -> str:
    """The bootstrap server that answers first; see preflight."""
    return (await preflight(kafka)).server


async def reachable_options(kafka: KafkaSettings) -> dict[str, Any]:
    """The options of a client that begins with the bootstrap server that answers first; see preflight."""
    return {**client_options(kafka), "bootstrap_servers": await answering_server(kafka)}


def _place(server: str) -> tuple[str, str, int]:
    host, _, port = server.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigurationError(f"kafka.bootstrap_servers: {server!r} is not host:port")
    return server, host.strip("[]"), int(port)


async def _reach(kafka: KafkaSettings, server: str, host: str, port: int) -> Reached:
    """Try one server."""
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
    """Connect once; the addresses that the server knows."""
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
            return await _shake_hands(kafka, host, port)
    except TimeoutError:
        raise ConfigurationError(
            f"it accepts connections but does not answer within {HANDSHAKE_TIMEOUT_S:.0f} s"
        ) from None
    except KafkaConnectionError as error:
        raise await _why_closed(kafka, host, port, error) from None
    except (KafkaError, OSError, *_NONSENSE) as error:
        raise _explained(error, kafka) from None


async def ask(kafka: KafkaSettings, host: str, port: int, request: Request[Any]) -> Any:
    """What one broker answers, on a connection of its own.

    Raises:
        KafkaError, OSError: it does not, or refuses this client.
    """
    connection = AIOKafkaConnection(host, port, **connection_options(kafka))
    try:
        await connection.connect()
        return await connection.send(request)
    finally:
        if (closed := connection.close()) is not None:  # TLS takes leave too
            await asyncio.wait({closed}, timeout=CLOSE_TIMEOUT_S)


async def _shake_hands(kafka: KafkaSettings, host: str, port: int) -> list[tuple[str, int]]:
    answer = await ask(kafka, host, port, MetadataRequest([]))
    if kafka.sasl_mechanism == "OAUTHBEARER" and not answer.brokers:
        raise AccessError(_TOKEN_REFUSED)
    if kafka.security_protocol.endswith("PLAINTEXT") and not kafka.allow_plaintext:
        _check_addresses(answer.brokers)
    return [(host, port) for _, host, port, *_ in answer.brokers]


def _check_addresses(brokers: Iterable[tuple[int, str, int]]) -> None:
    """A bootstrap server on this host may send its clients to brokers on others."""
    away = next((f"{host}:{port}" for _, host, port, *_ in brokers if not is_loopback(host)), None)
    if away is not None:
        raise ConfigurationError(
            f"it sends clients on to {away}, where queries would go unencrypted: set kafka.security_protocol "
            "to SSL or SASL_SSL, or kafka.allow_plaintext = true inside a trusted network"
        )


async def _why_closed(
    kafka: KafkaSettings, host: str, port: int, error: KafkaConnectionError
) -> ConfigurationError:
    """The server hung up after the handshake, which is how it refuses a certificate in TLS 1.3.

    Its alert may have been lost with the request that was under way: listen once more, in silence.
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
        f"it hung up on the first request: is kafka.security_protocol = {kafka.security_protocol} what this "
        "port expects?"
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
        case AuthenticationFailedError():  # of oauth.py: Kafka has not been asked yet
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
