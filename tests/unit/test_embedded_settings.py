"""The settings of an app on the embedded broker."""

from __future__ import annotations

import pytest

from fivestage.cli.dev import _on_broker
from fivestage.settings import Settings


@pytest.mark.parametrize(("given_ms", "wanted_ms"), [(100, 20), (5, 5)])
def test_fetches_wait_shortly(given_ms: int, wanted_ms: int) -> None:
    """The embedded broker answers an empty fetch only at its end, so that end is soon."""
    settings = Settings.load(None, {"kafka": {"fetch_max_wait_ms": given_ms}})
    assert _on_broker(settings, "127.0.0.1:9", 20).kafka.fetch_max_wait_ms == wanted_ms


def test_no_credentials_and_no_static_membership() -> None:
    """It needs neither credentials nor a static member's place."""
    kafka = {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "group_instance_id": "a"}
    kafka |= {"sasl_username": "u", "sasl_password": "p"}
    found = _on_broker(Settings.load(None, {"kafka": kafka}), "127.0.0.1:9", 20).kafka
    assert (found.bootstrap_servers, found.security_protocol) == ("127.0.0.1:9", "PLAINTEXT")
    assert (found.sasl_mechanism, found.group_instance_id) == (None, None)
