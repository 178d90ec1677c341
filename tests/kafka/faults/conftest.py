"""A broker that requires credentials, for the tests of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kafka.faults.guarded import GuardedBroker, guarded_broker

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedBroker]:
    """Lend a broker with TLS, credentials and ACLs, shared by all tests."""
    yield from guarded_broker(tmp_path_factory.mktemp("guarded"))
