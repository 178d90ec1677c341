"""Certificates of a temporary authority."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import trustme
from cryptography.hazmat.primitives import serialization

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path


class Authority:
    """Issues certificates as files in a directory."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._ca = trustme.CA(organization_name=name)
        self.file = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def client(self, name: str) -> tuple[Path, Path]:
        """Return a client's certificate and its key."""
        issued = self._ca.issue_cert(f"{name}@client.test", common_name=name)
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        issued.private_key_pem.write_to_path(str(key))
        return certificate, key

    def server_context(self, *names: str, not_after: datetime | None = None) -> ssl.SSLContext:
        """Return a server's TLS context."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*names, not_after=not_after).configure_cert(context)
        return context

    def broker_properties(self, *names: str, listener: str = "client") -> dict[str, str]:
        """Return properties of a TLS listener that trusts this authority's clients."""
        issued = self._ca.issue_cert(*names)
        key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), password=None)
        pkcs8 = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
        prefix = f"listener.name.{listener}.ssl"
        return {
            f"{prefix}.keystore.type": "PEM",
            f"{prefix}.keystore.certificate.chain": chain.decode(),
            f"{prefix}.keystore.key": pkcs8.decode(),
            f"{prefix}.truststore.type": "PEM",
            f"{prefix}.truststore.certificates": self._ca.cert_pem.bytes().decode(),
        }
