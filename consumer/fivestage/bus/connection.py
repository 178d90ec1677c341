"""What every client needs to connect, and what its failures mean."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Any

from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError

from fivestage.errors import ConfigurationError

if TYPE_CHECKING:
    from aiokafka.cluster import ClusterMetadata

    from fivestage.settings import KafkaSettings

PREFLIGHT_TIMEOUT_S = 5.0
METADATA_PAUSE_S = 0.1
METADATA_MAX_AGE_MS = 30_000
"""How soon new partitions are seen, topics that are gone, and those that are back."""


def client_options(kafka: KafkaSettings) -> dict[str, Any]:
    """The options that aiokafka's consumer, producer and admin client share."""
    password = kafka.sasl_password
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "client_id": kafka.client_id,
        "security_protocol": kafka.security_protocol,
        "request_timeout_ms": kafka.request_timeout_ms,
        "metadata_max_age_ms": METADATA_MAX_AGE_MS,
        "ssl_context": ssl_context(kafka),
    }
    if kafka.sasl_mechanism is not None:
        options |= {
            "sasl_mechanism": kafka.sasl_mechanism,
            "sasl_plain_username": kafka.sasl_username,
            "sasl_plain_password": password.get_secret_value() if password else None,
        }
    return options


def ssl_context(kafka: KafkaSettings) -> ssl.SSLContext | None:
    """The TLS context, with host names checked; None for a plaintext protocol.

    Raises:
        ConfigurationError: a certificate file cannot be used.
    """
    if not kafka.security_protocol.endswith("SSL"):
        return None
    try:
        context = ssl.create_default_context(cafile=kafka.ssl_cafile)
        if kafka.ssl_certfile is not None:
            context.load_cert_chain(kafka.ssl_certfile, kafka.ssl_keyfile)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"kafka.ssl_*: cannot use the certificate files: {error}") from None
    return context


def pace(client: Any) -> None:
    """Let a client that misses a topic, or the leader of a partition, look for it ten times a second.

    aiokafka would ask for metadata again as soon as it has some, thousands of times a second.
    """
    update = client._metadata_update  # noqa: SLF001 - nothing public slows it down; aiokafka is pinned

    async def update_then_pause(cluster: ClusterMetadata, topics: set[str]) -> Any:
        updated = await update(cluster, topics)
        if not all(_is_led(cluster, topic) for topic in topics):
            await asyncio.sleep(METADATA_PAUSE_S)
        return updated

    client._metadata_update = update_then_pause  # noqa: SLF001


def _is_led(cluster: ClusterMetadata, topic: str) -> bool:
    """Whether a topic is there, and each of its partitions has a leader."""
    partitions = cluster.partitions_for_topic(topic)
    return bool(partitions) and partitions == cluster.available_partitions_for_topic(topic)


def missing_right(error: Exception, *, topic: str, group_id: str) -> ConfigurationError | None:
    """What to grant, where *error* says that this principal may not consume; None where it says otherwise."""
    match error:
        case TopicAuthorizationFailedError():
            text = f"not allowed to read topic {topic!r}: grant Read on it to this principal"
        case GroupAuthorizationFailedError():
            text = f"not allowed to use group {group_id!r}: grant Read on it to this principal"
        case _:
            return None
    return ConfigurationError(text)


async def preflight(kafka: KafkaSettings) -> None:
    """Find out why a connection fails: the client itself says the same for every cause.

    Raises:
        ConfigurationError: no bootstrap server can be reached; the text names the cause of the last one.
    """
    context = ssl_context(kafka)
    cause = "no server is named"
    for server in kafka.bootstrap_servers.split(","):
        host, _, port = server.strip().rpartition(":")
        if not host or not port.isdigit():
            raise ConfigurationError(f"kafka.bootstrap_servers: {server.strip()!r} is not host:port")
        failure = await _try(host.strip("[]"), int(port), context)
        if failure is None:
            return
        cause = f"{server.strip()}: {failure}"
    raise ConfigurationError(
        f"cannot reach Kafka at {cause}. Check kafka.bootstrap_servers, or start a broker to try things "
        'out with "fivestage broker"'
    )


async def _try(host: str, port: int, context: ssl.SSLContext | None) -> str | None:  # noqa: PLR0911 - a table
    """Connect once; what went wrong, or None."""
    try:
        async with asyncio.timeout(PREFLIGHT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except TimeoutError:
        return f"no answer within {PREFLIGHT_TIMEOUT_S:.0f} s"
    except socket.gaierror:
        return "the host name is not known"
    except ConnectionRefusedError:
        return "connection refused, nothing listens there"
    except ssl.SSLCertVerificationError as error:
        return f"the server's certificate is not trusted ({error.verify_message})"
    except ssl.SSLError as error:
        return f"TLS failed ({error.reason}); does the port speak TLS?"
    except OSError as error:
        return error.strerror or type(error).__name__
    writer.close()
    return None
