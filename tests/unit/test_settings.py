"""Settings: sources, validation, and the length of error messages."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from fivestage import ConfigurationError
from fivestage.cli.common import warn_of_variables
from fivestage.setting_sources import unknown_variables
from fivestage.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "s3cret-7f3a"  # noqa: S105 - a canary


def test_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Command line wins over environment, environment over file, key by key."""
    config = tmp_path / "fivestage.toml"
    config.write_text('[kafka]\ngroup_id = "file"\nclient_id = "file"\n[admission]\nquery_ttl_ms = 7\n')
    monkeypatch.setenv("FIVESTAGE_KAFKA__CLIENT_ID", "environment")
    monkeypatch.setenv("FIVESTAGE_ADMISSION__QUERY_TTL_MS", "8")
    settings = Settings.load(config, {"admission": {"query_ttl_ms": 9}})
    found = (settings.kafka.group_id, settings.kafka.client_id, settings.admission.query_ttl_ms)
    assert found == ("file", "environment", 9)


def test_a_stage_limit_that_is_not_named_keeps_its_default() -> None:
    """One limit can be set without the other four."""
    settings = Settings.load(None, {"pipeline": {"stage_timeouts_ms": {"processing": 90}}})
    assert list(settings.pipeline.stage_timeouts_ms.values()) == [50, 100, 90, 40, 30]
    assert settings.pipeline.plan().stages[2].limit_s == pytest.approx(0.09)


def test_a_wrong_key_has_a_proposal_and_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong key or value says which file or variable has it, and what may have been meant."""
    config = tmp_path / "fivestage.toml"
    sections = ("executor]\nworker = 1", "pipeline]\ntotal_timeout = 7", "pipelin]\nx = 1")
    config.write_text("\n".join(f"[{section}" for section in sections))
    monkeypatch.setenv("FIVESTAGE_KAFKA__GRUP_ID", "x")
    monkeypatch.setenv("FIVESTAGE_ADMISSION__MAX_IN_FLIGHT", "-7")
    with pytest.raises(ConfigurationError) as raised:
        Settings.load(config, {"executor": {"worker": 2, "kind": "inline"}})
    said = str(raised.value).split("; ")
    assert (
        f"pipeline.total_timeout: no such setting (did you mean 'total_timeout_ms'?) (from {config})" in said
    )
    assert "kafka.grup_id: no such setting (did you mean 'group_id'?) (from FIVESTAGE_KAFKA__GRUP_ID)" in said
    assert "executor.worker: no such setting (did you mean 'workers'?)" in said
    unknown = f"pipelin: no such setting (did you mean 'pipeline'?) (from {config})"
    assert [one for one in said if one.startswith(unknown)]
    value = [one for one in said if one.startswith("admission.max_in_flight: ")]
    assert value
    assert value[0].endswith("(from FIVESTAGE_ADMISSION__MAX_IN_FLIGHT)")


def test_variables_that_set_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt section has a proposal; others are listed, and only what looks like a setting is logged."""
    for name in [name for name in os.environ if name.startswith("FIVESTAGE_")]:
        monkeypatch.delenv(name)
    wrong = (
        "PIPELIN__TOTAL_TIMEOUT_MS",
        "KAFKA_BOOTSTRAP_SERVERS",
        "OTHER__X",
        "SERVICE_HOST",
        "SERVICE_PORT",
    )
    for name in (*wrong, "LANE", "CONFIG", "NODES__A__B"):
        monkeypatch.setenv(f"FIVESTAGE_{name}", "1")
    monkeypatch.setenv("FIVESTAGE_ADMIN_PORT", "tcp://10.0.0.7:80")  # of a Service called fivestage-admin
    settings = Settings()
    assert list(unknown_variables(type(settings))) == [
        ("FIVESTAGE_ADMIN_PORT", None),
        ("FIVESTAGE_KAFKA_BOOTSTRAP_SERVERS", "FIVESTAGE_KAFKA__BOOTSTRAP_SERVERS"),
        ("FIVESTAGE_OTHER__X", None),
        ("FIVESTAGE_PIPELIN__TOTAL_TIMEOUT_MS", "FIVESTAGE_PIPELINE__TOTAL_TIMEOUT_MS"),
        ("FIVESTAGE_SERVICE_HOST", None),
        ("FIVESTAGE_SERVICE_PORT", None),
    ]
    with capture_logs() as logs:
        warn_of_variables(settings)
    assert [(line["log_level"], line["variable"], line["advice"]) for line in logs] == [
        (
            "warning",
            "FIVESTAGE_KAFKA_BOOTSTRAP_SERVERS",
            "did you mean FIVESTAGE_KAFKA__BOOTSTRAP_SERVERS?",
        ),
        ("warning", "FIVESTAGE_OTHER__X", None),
        (
            "warning",
            "FIVESTAGE_PIPELIN__TOTAL_TIMEOUT_MS",
            "did you mean FIVESTAGE_PIPELINE__TOTAL_TIMEOUT_MS?",
        ),
    ]


def test_without_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable counts, not even as the source of a wrong value."""
    config = tmp_path / "fivestage.toml"
    config.write_text('lane = "canary"\n')
    monkeypatch.setenv("FIVESTAGE_LANE", "!")
    assert (Settings.load(environment=False).lane, Settings.load(config, environment=False).lane) == (
        "prod",
        "canary",
    )
    config.write_text('lane = "?"\n')
    with pytest.raises(ConfigurationError, match=r"lane: .* \(from .*fivestage\.toml\)"):
        Settings.load(config, environment=False)


SASL = {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kafka": {"grup_id": "x"}}, "kafka.grup_id: no such setting"),
        ({"admission": {"max_in_flight": 0}}, "admission.max_in_flight"),
        ({"kafka": {"bootstrap_servers": "broker.example:9092"}}, "allow_plaintext"),
        ({"kafka": {"bootstrap_servers": "broker.example"}}, "allow_plaintext"),
        ({"kafka": {"bootstrap_servers": "localhost:9092, 10.0.0.5"}}, "allow_plaintext"),
        ({"kafka": {"bootstrap_servers": "[2001:db8::1]"}}, "allow_plaintext"),
        ({"kafka": {"request_timeout_ms": 11000}}, "rebalance_timeout_ms + 3000"),
        ({"kafka": {"rebalance_timeout_ms": 5000}}, "kafka.rebalance_timeout_ms"),
        ({"kafka": {"session_timeout_ms": 800}}, "three times heartbeat_interval_ms"),
        ({"kafka": {"auto_offset_reset": "none"}}, "should be 'earliest', 'latest' or 'error'"),
        ({"kafka": {"client_rack": ""}}, "kafka.client_rack"),
        ({"kafka": {"publish_request_bytes": 200_000_000}}, "kafka.publish_request_bytes"),
        ({"topics": {"queries": "fivestage.results"}}, "topics: a loop: 'fivestage.results' would be"),
        ({"topics": {"queries": ["mine", "fivestage.timeouts"]}}, "a loop: 'fivestage.timeouts'"),
        ({"topics": {"queries": "mine, errors", "dead_letters": "errors"}}, "a loop: 'errors'"),
        ({"topics": {"queries": "^fivestage"}}, "a loop: 'fivestage.stage-results', 'fivestage.results'"),
        ({"topics": {"queries": "^(mine"}}, "queries is no valid pattern"),
        ({"topics": {"queries": " , "}}, "queries names no topic"),
        ({"topics": {"queries": ["mine", 7]}}, "topics.queries: Input should be a valid string"),
        ({"kafka": {"security_protocol": "SASL_SSL"}}, "sasl_mechanism is needed"),
        ({"kafka": SASL}, "sasl_username and sasl_password are needed"),
        ({"kafka": {**SASL, "sasl_username": "u", "sasl_password": SECRET, "x": 1}}, "kafka.x"),
        ({"pipeline": {"stage_timeouts_ms": {"thinking": 5}}}, "pipeline.stage_timeouts_ms.thinking"),
        ({"lane": "no spaces"}, "lane"),
        ({"lanes": {"prod": 0}}, "lanes.prod: Input should be greater than 0"),
        ({"lanes": {"prod": -0.1}}, "lanes.prod"),
        ({"lanes": {"prod": "much"}}, "lanes.prod: Input should be a valid number"),
        ({"lanes": {"no spaces": 1}}, "lanes.no spaces"),
        ({"lanes": ["prod", "no spaces"]}, "lanes.no spaces"),
        ({"lanes": "prod"}, "lanes: Input should be a valid dictionary"),
        ({"adaptive": {"min_samples": 0}}, "adaptive.min_samples"),
        ({"adaptive": {"floor_ratio": 0}}, "adaptive.floor_ratio"),
        ({"adaptive": {"floor_ratio": 1.5}}, "adaptive.floor_ratio"),
        ({"adaptive": {"ceiling_ratio": 0.9}}, "adaptive.ceiling_ratio"),
        ({"adaptive": {"learning_rate": 1.1}}, "adaptive.learning_rate"),
        ({"adaptive": {"enabled": "perhaps"}}, "adaptive.enabled"),
        (
            {"adaptive": {"min_samples": 201}},
            "adaptive.min_samples: Input should be less than or equal to 200",
        ),
        ({"adaptive": {"ceiling_ratio": float("inf")}}, "adaptive.ceiling_ratio: Input should be a finite"),
        ({"lanes": {"prod": float("inf")}}, "lanes.prod: Input should be a finite number"),
        ({"lanes": {"prod": float("nan")}}, "lanes.prod"),
        ({"breaker": {"failure_rate": 0}}, "breaker.failure_rate"),
        ({"breaker": {"slow_call_rate": 1.5}}, "breaker.slow_call_rate"),
        ({"breaker": {"minimum_calls": 200}}, "minimum_calls must not be more than window"),
        ({"breaker": {"open_ms": 0}}, "breaker.open_ms"),
        ({"breaker": {"first_open_ms": 0}}, "breaker.first_open_ms"),
        ({"breaker": {"first_open_ms": 40_000}}, "first_open_ms must not be more than open_ms"),
        ({"breaker": {"half_open_calls": 0}}, "breaker.half_open_calls"),
        (
            {"admission": {"ordering": "partition"}},
            "admission.ordering: Input should be 'unordered' or 'key'",
        ),
        ({"admission": {"shed": "maybe"}}, "admission.shed: Input should be 'off', 'observe' or 'on'"),
        ({"admission": {"shed_max_share": 0}}, "admission.shed_max_share"),
        ({"admission": {"shed_max_share": 1.01}}, "admission.shed_max_share"),
        ({"admission": {"adaptive_limit": "sometimes"}}, "admission.adaptive_limit"),
        ({"executor": {"kind": "fiber"}}, "executor.kind: Input should be 'thread' or 'process'"),
        ({"executor": {"kind": "inline"}}, "executor.kind: 'inline' is for tests only"),
        ({"executor": {"kind": "inline"}}, "use 'thread', or 'process' for code that computes"),
        ({"executor": {"workers": 0}}, "executor.workers"),
        ({"executor": {"stall_ms": 1}}, "executor.stall_ms"),
    ],
)
def test_invalid_settings_are_rejected(values: dict[str, Any], said: str) -> None:
    """A wrong setting is one line that names its key and quotes no secret."""
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
    """A list written with commas is one line that shows how to write it."""
    monkeypatch.setenv(f"FIVESTAGE_{name}", value)
    with pytest.raises(ConfigurationError, match="lists and tables are JSON") as caught:
        Settings.load()
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file and an invalid TOML file have different errors."""
    with pytest.raises(ConfigurationError, match=r"cannot read .*No such file"):
        Settings.load(tmp_path / "missing.toml")
    (tmp_path / "bad.toml").write_text("= 1")
    with pytest.raises(ConfigurationError, match="is not TOML"):
        Settings.load(tmp_path / "bad.toml")


def test_secrets_are_masked() -> None:
    """No representation of the settings shows a password."""
    kafka = {**SASL, "sasl_username": "u", "sasl_password": SECRET}
    settings = Settings.load(None, {"kafka": kafka})
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump(mode='json')}"


LEARNING = """
lane = "canary"

[lanes]
prod = 0.9
canary = 0.1

[adaptive]
enabled = false
min_samples = 20
floor_ratio = 0.25
ceiling_ratio = 2.0
learning_rate = 0.5

[breaker]
failure_rate = 0.5
slow_call_rate = 0.8
window = 50
minimum_calls = 10
first_open_ms = 500
open_ms = 5000
half_open_calls = 3

[admission]
ordering = "key"
shed = "observe"
shed_max_share = 0.5
adaptive_limit = false

[executor]
kind = "process"
workers = 4
stall_ms = 50
"""


def test_lists_in_variables_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both settings that take a list, also in the form of a file."""
    monkeypatch.setenv("FIVESTAGE_TOPICS__QUERIES", ' ["mine", "yours"]')
    monkeypatch.setenv("FIVESTAGE_LANES", '["prod", "canary"]')
    settings = Settings.load(None)
    assert (settings.topics.inputs, set(settings.lanes)) == (("mine", "yours"), {"prod", "canary"})


def test_policies_come_from_the_file(tmp_path: Path) -> None:
    """Each key of a TOML file arrives in its policy."""
    (tmp_path / "fivestage.toml").write_text(LEARNING)
    settings = Settings.load(tmp_path / "fivestage.toml")
    assert (settings.lane, settings.lanes) == ("canary", {"prod": 0.9, "canary": 0.1})
    adaptive = settings.adaptive.policy()
    assert (adaptive.enabled, adaptive.min_samples, adaptive.learning_rate) == (False, 20, 0.5)
    assert (adaptive.floor_ratio, adaptive.ceiling_ratio) == (0.25, 2.0)
    breaker = settings.breaker.policy(250)
    assert (breaker.failure_rate, breaker.slow_call_rate, breaker.window) == (0.5, 0.8, 50)
    assert (breaker.minimum_calls, breaker.open_s, breaker.half_open_calls) == (10, 5.0, 3)
    assert (breaker.first_open_s, breaker.probe_timeout_s) == (0.5, 1.25)
    admission, executor = settings.admission, settings.executor
    assert (admission.ordering, str(admission.shed)) == ("key", "observe")
    assert (admission.shed_max_share, admission.adaptive_limit) == (0.5, False)
    assert (executor.kind, executor.workers, executor.stall_ms) == ("process", 4, 50)


def test_policies_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same keys work as variables; tables and lists as JSON."""
    for name, value in {
        "LANES": '{"prod": 9, "canary": 1}',
        "ADAPTIVE__ENABLED": "false",
        "ADAPTIVE__FLOOR_RATIO": "0.25",
        "BREAKER__OPEN_MS": "5000",
        "ADMISSION__ORDERING": "key",
        "ADMISSION__SHED": "off",
        "ADMISSION__ADAPTIVE_LIMIT": "0",
        "EXECUTOR": '{"kind": "process", "workers": 2}',
        "EXECUTOR__STALL_MS": "40",
    }.items():
        monkeypatch.setenv(f"FIVESTAGE_{name}", value)
    settings = Settings.load()
    assert settings.lanes == {"prod": 9.0, "canary": 1.0}
    assert (settings.adaptive.enabled, settings.adaptive.floor_ratio) == (False, 0.25)
    assert settings.breaker.policy(250).open_s == 5.0
    admission, executor = settings.admission, settings.executor
    assert (admission.ordering, str(admission.shed), admission.adaptive_limit) == ("key", "off", False)
    assert (executor.kind, executor.workers, executor.stall_ms) == ("process", 2, 40)


def test_lanes_as_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list gives equal shares, in the file and, as JSON, in the environment."""
    (tmp_path / "fivestage.toml").write_text('lanes = ["prod", "canary"]')
    assert Settings.load(tmp_path / "fivestage.toml").lanes == {"prod": 1.0, "canary": 1.0}
    monkeypatch.setenv("FIVESTAGE_LANES", '["a", "b", "prod"]')
    assert Settings.load().lanes == {"a": 1.0, "b": 1.0, "prod": 1.0}
    monkeypatch.setenv("FIVESTAGE_LANE", "c")
    with pytest.raises(ConfigurationError, match="add 'c' to lanes"):
        Settings.load()


def test_a_breaker_that_opens_for_less_than_it_opens_first() -> None:
    """A ceiling below the default of first_open_ms also lowers that: such settings stay valid."""
    policy = Settings.model_validate({"breaker": {"open_ms": 400}}).breaker.policy(250)
    assert (policy.first_open_s, policy.open_s) == (0.4, 0.4)


@pytest.mark.parametrize("given", ["a, b,,a", ["a", "b"]])
def test_several_topics_of_queries(given: object) -> None:
    """Topics are a list or separated by commas, without repeats; commands that write need one of them."""
    topics = Settings.load(None, {"topics": {"queries": given}}).topics
    assert (topics.inputs, topics.all[:2], topics.pattern) == (("a", "b"), ("a", "b"), None)
    assert [topics.is_input(name) for name in ("a", "b", "ab")] == [True, True, False]
    with pytest.raises(ConfigurationError, match="may be several topics"):
        topics.only_input()


def test_a_pattern_for_topics_of_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern matches names by their start, and names no topic itself."""
    monkeypatch.setenv("FIVESTAGE_TOPICS__QUERIES", r"^orders\.e{1,2}u")
    topics = Settings.load().topics
    assert (topics.inputs, topics.pattern, len(topics.all)) == ((), r"^orders\.e{1,2}u", 4)
    names = ("orders.eu.west", "orders-eu", "my.orders.eu")
    assert [topics.is_input(name) for name in names] == [True, False, False]


def test_topics_of_queries_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names separated by commas need no JSON in the environment."""
    monkeypatch.setenv("FIVESTAGE_TOPICS__QUERIES", "a,b")
    assert Settings.load().topics.inputs == ("a", "b")
