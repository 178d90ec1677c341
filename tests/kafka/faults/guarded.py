"""A real broker as in production: TLS, three kinds of credentials, and only the granted rights.

The principal ``User:service`` is the service's, with any kind of credentials; ``User:admin`` may do all.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from confluent_kafka.admin import (
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from kafka.conftest import _lend
from kafka.test_service import settings_for
from support.certificates import Authority
from support.secured import SecuredClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kafka.broker import RealBroker, TopicSet

PASSWORD = "canary-pass-7f3a"  # noqa: S105 - must never be seen anywhere
SESSION_MS = 3000
"""The lifetime of a connection: the client never re-authenticates, so the broker closes it then."""
ROOT = Path(__file__).resolve().parents[3]
_LOGIN = "org.apache.kafka.common.security"
_SASL = "listener.name.client"
_PROPERTIES = {
    "listener.security.protocol.map": "CLIENT:SASL_SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
    f"{_SASL}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512,OAUTHBEARER",
    f"{_SASL}.plain.sasl.jaas.config": f"{_LOGIN}.plain.PlainLoginModule required "
    f'user_service="{PASSWORD}" user_admin="{PASSWORD}-admin";',
    f"{_SASL}.scram-sha-512.sasl.jaas.config": f"{_LOGIN}.scram.ScramLoginModule required;",
    f"{_SASL}.oauthbearer.sasl.jaas.config": f"{_LOGIN}.oauthbearer.OAuthBearerLoginModule required "
    'unsecuredLoginStringClaim_sub="broker";',
    f"{_SASL}.scram-sha-512.connections.max.reauth.ms": str(SESSION_MS),
    f"{_SASL}.oauthbearer.connections.max.reauth.ms": str(SESSION_MS),
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "false",
    "super.users": "User:ANONYMOUS;User:admin",  # anonymous are the tools on INTERNAL, and the broker itself
}


@dataclass(frozen=True)
class GuardedBroker:
    """The broker, and its administrator."""

    broker: RealBroker
    admin: SecuredClient
    cafile: Path
    folder: Path

    def kafka(self, mechanism: str, **more: object) -> dict[str, object]:
        """Build ``kafka.*`` settings of a service that logs in."""
        good = {
            "bootstrap_servers": self.broker.bootstrap,
            "security_protocol": "SASL_SSL",
            "ssl_cafile": str(self.cafile),
            "sasl_mechanism": mechanism,
            "sasl_username": "service",
            "sasl_password": PASSWORD,
        }
        return {**good, **more}

    def settings(self, topics: TopicSet, mechanism: str, **more: object) -> dict[str, object]:
        """Build all settings of such a service, by dotted key."""
        kafka = {f"kafka.{name}": value for name, value in self.kafka(mechanism, **more).items()}
        return kafka | settings_for(topics)

    def set_password(self, password: str) -> None:
        """Give the service's SCRAM user a password."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = UserScramCredentialUpsertion("service", info, password.encode())
        for future in self.admin.admin.alter_user_scram_credentials([change]).values():
            future.result(20)

    def topics(self, partitions: int = 2) -> TopicSet:
        """Create five topics, and grant the service the rights of ``deploy/acls.sh``."""
        topics = self.admin.create_topics(partitions)
        for arguments in rights(topics, self.folder):
            self.broker.exec_tool("kafka-acls", *arguments)
        return topics


def rights(topics: TopicSet, folder: Path, queries: str | None = None) -> list[list[str]]:
    """Return the calls of Kafka's tool in ``deploy/acls.sh``, each a list of arguments.

    Args:
        topics: The topics of the service.
        folder: Where the calls are noted.
        queries: The setting ``topics.queries``, where it is not the name in *topics*.
    """
    noted = folder / f"{topics.prefix}.arguments"
    tool = folder / "note-arguments"
    tool.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" "" >>{noted}\n')
    tool.chmod(0o755)
    names = ("queries", "stage_results", "results", "timeouts", "dead_letters")
    variables = {f"FIVESTAGE_TOPICS__{name.upper()}": str(getattr(topics, name)) for name in names}
    if queries is not None:
        variables["FIVESTAGE_TOPICS__QUERIES"] = queries
    variables |= {"FIVESTAGE_KAFKA__GROUP_ID": topics.prefix, "KAFKA_ACLS": str(tool)}
    subprocess.run(
        ["bash", "deploy/acls.sh", "User:service"],
        cwd=ROOT,
        env={**os.environ, **variables},
        check=True,
        timeout=20,
    )
    return [call.splitlines() for call in noted.read_text().removesuffix("\n\n").split("\n\n")]


def guarded_broker(folder: Path) -> Iterator[GuardedBroker]:
    """Start one, for a fixture."""
    authority = Authority(folder)
    properties = _PROPERTIES | authority.broker_properties("127.0.0.1")
    options = {
        "security.protocol": "sasl_ssl",
        "ssl.ca.location": str(authority.file),
        "sasl.mechanism": "PLAIN",
        "sasl.username": "admin",
        "sasl.password": f"{PASSWORD}-admin",
    }
    for broker in _lend(properties=properties):
        guarded = GuardedBroker(broker, SecuredClient(broker.bootstrap, options), authority.file, folder)
        guarded.set_password(PASSWORD)
        yield guarded
