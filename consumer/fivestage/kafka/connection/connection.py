"""Options and TLS contexts of connections to Kafka, and what to grant when a broker denies a right."""

from __future__ import annotations

import functools
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiokafka.errors import (
    GroupAuthorizationFailedError,
    InconsistentGroupProtocolError,
    InvalidGroupIdError,
    InvalidSessionTimeoutError,
    TopicAuthorizationFailedError,
)

from fivestage.errors import ConfigurationError

if TYPE_CHECKING:
    from fivestage.settings import KafkaSettings

METADATA_MAX_AGE_MS = 30_000
"""Milliseconds until clients notice added partitions, and deleted or recreated topics."""


def client_options(kafka: KafkaSettings) -> dict[str, Any]:
    """The options that aiokafka's consumer, producer and admin client share."""
    return {
        "bootstrap_servers": kafka.bootstrap_servers,
        "metadata_max_age_ms": METADATA_MAX_AGE_MS,
        **connection_options(kafka),
    }


def connection_options(kafka: KafkaSettings) -> dict[str, Any]:
    """The options of a connection to one broker."""
    password = kafka.sasl_password
    options: dict[str, Any] = {
        "client_id": kafka.client_id,
        "security_protocol": kafka.security_protocol,
        "request_timeout_ms": kafka.request_timeout_ms,
        "ssl_context": ssl_context(kafka),
    }
    if kafka.security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = kafka.sasl_mechanism
        if kafka.sasl_mechanism == "OAUTHBEARER":
            from fivestage.kafka.connection.oauth import TokenProvider  # noqa: PLC0415 - loads an HTTP client: 0.15 s

            options["sasl_oauth_token_provider"] = TokenProvider(kafka)
        else:
            options["sasl_plain_username"] = kafka.sasl_username
            options["sasl_plain_password"] = password.get_secret_value() if password else None
    return options


def ssl_context(kafka: KafkaSettings) -> ssl.SSLContext | None:
    """The TLS context (1.2 or newer, certificate and host name checked); None for a plaintext protocol.

    It is rebuilt when a certificate file has changed; reading the system's authorities takes a tenth of a
    second, in which the loop stands still.

    Raises:
        ConfigurationError: a certificate file cannot be used.
    """
    if not kafka.security_protocol.endswith("SSL"):
        return None
    secret = kafka.ssl_key_password
    password = secret.get_secret_value() if secret is not None else None
    files = kafka.ssl_cafile, kafka.ssl_certfile, kafka.ssl_keyfile
    return _context(*files, password, certificate_stamp(kafka))


@functools.lru_cache(maxsize=2)
def _context(
    cafile: Path | None, certfile: Path | None, keyfile: Path | None, password: str | None, _: object
) -> ssl.SSLContext:
    """Make the TLS context; the last argument changes with the files."""

    def password_of_key() -> str:
        """Return the password of an encrypted key, for which OpenSSL would otherwise ask on the terminal."""
        if password is None:
            raise ConfigurationError("kafka.ssl_keyfile is encrypted: set kafka.ssl_key_password")
        return password

    try:
        context = ssl.create_default_context(cafile=cafile)
        if certfile is not None:
            context.load_cert_chain(certfile, keyfile, password_of_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"kafka.ssl_*: cannot use the certificate files: {error}") from None
    return context


def certificate_stamp(kafka: KafkaSettings) -> tuple[tuple[int, int, int] | None, ...]:
    """A value that changes whenever a certificate file, or one of the system's, is written or removed."""
    if not kafka.security_protocol.endswith("SSL"):
        return ()
    system = ssl.get_default_verify_paths()
    authorities = (system.cafile, system.capath) if kafka.ssl_cafile is None else (kafka.ssl_cafile,)
    files = (*authorities, kafka.ssl_certfile, kafka.ssl_keyfile)
    return tuple(_file_stamp(Path(file)) for file in files if file is not None)


def _file_stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def raise_if_forbidden(error: Exception, *, topic: str, group_id: str) -> None:
    """Raise ConfigurationError, naming the right to grant, if *error* is a denied right to consume."""
    match error:
        case TopicAuthorizationFailedError():
            denied = f"not allowed to read topic {_topics_of(error) or repr(topic)}"
        case GroupAuthorizationFailedError():
            denied = f"not allowed to use group {group_id!r}"
        case _:
            return
    raise ConfigurationError(f"{denied}: grant Read on it to this principal") from error


def _topics_of(error: TopicAuthorizationFailedError) -> str:
    """The topics that the client names in an error: one, or a set; empty if it names none."""
    named = error.args[0] if error.args else ()
    return ", ".join(map(repr, sorted({named} if isinstance(named, str) else named)))


def raise_if_not_joined(error: Exception, kafka: KafkaSettings) -> None:
    """Raise ConfigurationError, naming the setting, if *error* is a group's refusal of this member."""
    match error:
        case InvalidSessionTimeoutError():
            wrong = (
                f"the brokers do not accept kafka.session_timeout_ms = {kafka.session_timeout_ms}: see their "
                "group.min.session.timeout.ms and group.max.session.timeout.ms"
            )
        case InconsistentGroupProtocolError():
            wrong = (
                f"group {kafka.group_id!r} has members that share partitions in another way: give "
                "kafka.group_id a name that no other program uses"
            )
        case InvalidGroupIdError():
            wrong = f"the brokers do not accept kafka.group_id = {kafka.group_id!r}"
        case _:
            return
    raise ConfigurationError(wrong) from error
