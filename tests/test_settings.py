"""Settings: where they come from, what is refused, and in how many words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fivestage import ConfigurationError
from fivestage.settings import Settings
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "s3cret-7f3a"  # noqa: S105 - a canary


def test_defaults_are_those_of_the_contract() -> None:
    """Limits, topics, lane and admission are what readers and producers were told."""
    settings = Settings()
    assert (settings.kafka.bootstrap_servers, settings.kafka.group_id) == ("localhost:9092", "fivestage")
    assert settings.topics.all == (
        "fivestage.queries",
        "fivestage.stage-results",
        "fivestage.results",
        "fivestage.timeouts",
        "fivestage.dead-letters",
    )
    assert (settings.lane, settings.pipeline.total_timeout_ms) == ("prod", 250)
    assert list(settings.pipeline.stage_timeouts_ms.values()) == [50, 100, 120, 40, 30]
    assert settings.pipeline.critical == {StageType.INTENT, StageType.DECISION, StageType.PROCESSING}
    assert (settings.admission.max_in_flight, settings.admission.query_ttl_ms) == (256, 0)
    assert (settings.executor.kind, settings.executor.max_abandoned) == ("thread", 8)
    assert (settings.admin.host, settings.admin.port) == ("127.0.0.1", 8080)


def test_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line wins over the environment, the environment over the file, key by key."""
    config = tmp_path / "fivestage.toml"
    config.write_text('[kafka]\ngroup_id = "file"\nclient_id = "file"\n[admission]\nquery_ttl_ms = 7\n')
    monkeypatch.setenv("FIVESTAGE_KAFKA__CLIENT_ID", "environment")
    monkeypatch.setenv("FIVESTAGE_ADMISSION__QUERY_TTL_MS", "8")
    settings = Settings.load(config, {"admission": {"query_ttl_ms": 9}})
    found = (settings.kafka.group_id, settings.kafka.client_id, settings.admission.query_ttl_ms)
    assert found == ("file", "environment", 9)


def test_a_stage_limit_that_is_not_named_keeps_its_default() -> None:
    """One limit can be set without repeating the other four."""
    settings = Settings.load(None, {"pipeline": {"stage_timeouts_ms": {"processing": 90}}})
    assert list(settings.pipeline.stage_timeouts_ms.values()) == [50, 100, 90, 40, 30]
    assert settings.pipeline.plan().stages[2].limit_s == pytest.approx(0.09)


SASL = {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kafka": {"grup_id": "x"}}, "kafka.grup_id: no such setting"),
        ({"admission": {"max_in_flight": 0}}, "admission.max_in_flight"),
        ({"kafka": {"bootstrap_servers": "broker.example:9092"}}, "allow_plaintext"),
        ({"kafka": {"request_timeout_ms": 11000}}, "rebalance_timeout_ms + 3000"),
        ({"kafka": {"rebalance_timeout_ms": 5000}}, "kafka.rebalance_timeout_ms"),
        ({"kafka": {"session_timeout_ms": 5000}}, "three times heartbeat_interval_ms"),
        ({"kafka": {"security_protocol": "SASL_SSL"}}, "sasl_mechanism is needed"),
        ({"kafka": SASL}, "sasl_username and sasl_password are needed"),
        ({"kafka": {**SASL, "sasl_username": "u", "sasl_password": SECRET, "x": 1}}, "kafka.x"),
        ({"pipeline": {"stage_timeouts_ms": {"thinking": 5}}}, "pipeline.stage_timeouts_ms.thinking"),
        ({"lane": "no spaces"}, "lane"),
    ],
)
def test_what_is_refused(values: dict[str, Any], said: str) -> None:
    """A wrong setting is one line that names its key, and no secret."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(None, values)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("LANES", "prod,canary"), ("PIPELINE__CRITICAL", "intent"), ("KAFKA", "{bad")],
)
def test_environment_that_is_no_json(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A list written with commas is one line that shows how lists are written."""
    monkeypatch.setenv(f"FIVESTAGE_{name}", value)
    with pytest.raises(ConfigurationError, match="takes JSON for lists") as caught:
        Settings.load()
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file and one that is no TOML are told apart."""
    with pytest.raises(ConfigurationError, match=r"cannot read .*No such file"):
        Settings.load(tmp_path / "missing.toml")
    (tmp_path / "bad.toml").write_text("= 1")
    with pytest.raises(ConfigurationError, match="is not TOML"):
        Settings.load(tmp_path / "bad.toml")


def test_secrets_are_masked() -> None:
    """A password is in no representation of the settings."""
    kafka = {**SASL, "sasl_username": "u", "sasl_password": SECRET}
    settings = Settings.load(None, {"kafka": kafka})
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump(mode='json')}"
