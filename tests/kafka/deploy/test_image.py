from __future__ import annotations

import os
import re
import textwrap
import uuid
from typing import TYPE_CHECKING

import pytest

from fivestage_schemas import PipelineResult
from kafka.deploy.image import (
    IMAGE,
    PYTHON,
    ROOT,
    Container,
    UnavailableError,
    build,
    build_in,
    docker,
)
from support.checker import committed, read_all, wait_for_results
from support.feeder import event, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kafka.broker import RealBroker, TopicSet

pytestmark = pytest.mark.kafka

ENDLESS_APP = """
import sys
import time

print("importing", file=sys.stderr, flush=True)
time.sleep(3600)
"""
SLOW_APP = """
    import asyncio
    from fivestage import Pipeline

    app = Pipeline()

    @app.node("slow", intents={"greeting"})
    async def slow(query, ctx):
        await asyncio.sleep(2)
        return {"answer": "at last", "confidence": 1.0}
"""


@pytest.fixture(scope="session")
def image() -> str:
    """Build the image without compiling the hot path, which is faster."""
    return built()


def built(*, compiled: bool = False) -> str:
    """Return the image, or skip the test where none can be built."""
    try:
        return build(compiled=compiled)
    except UnavailableError as problem:
        if os.environ.get("FIVESTAGE_REQUIRE_KAFKA") == "1":
            pytest.fail(f"no image: {problem}", pytrace=False)
        pytest.skip(f"no image: {problem}")


@pytest.fixture
def user_image(image: str, tmp_path: Path) -> Iterator[str]:
    """Build the image with a user's node from the text of deploy/README.md."""
    readme = (ROOT / "deploy/README.md").read_text()
    blocks = dict(re.findall(r"^```(python|dockerfile)\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)[:2])
    assert blocks["dockerfile"].startswith("FROM fivestage\n")
    (tmp_path / "myapp.py").write_text(blocks["python"])
    (tmp_path / "Dockerfile").write_text(blocks["dockerfile"].replace("FROM fivestage", f"FROM {image}", 1))
    tag = f"{IMAGE}-user-{uuid.uuid4().hex[:12]}"
    build_in(tmp_path, tag)
    yield tag
    docker("rmi", "--force", tag)


def settings_for(kafka: RealBroker, topics: TopicSet) -> dict[str, object]:
    """Build settings of a service on this broker and these topics."""
    names = ("queries", "stage_results", "results", "timeouts", "dead_letters")
    return {
        "kafka.bootstrap_servers": kafka.bootstrap,
        "kafka.group_id": topics.prefix,
        **{f"topics.{name}": getattr(topics, name) for name in names},
    }


def ask(kafka: RealBroker, topics: TopicSet, text: str) -> None:
    """Write one query."""
    write(kafka.bootstrap, topics.queries, [(None, event("q1", text))])


def answer(kafka: RealBroker, topics: TopicSet) -> PipelineResult:
    """Wait for the result."""
    wait_for_results(kafka.bootstrap, topics.results, 1)
    (message,) = read_all(kafka.bootstrap, topics.results)
    return PipelineResult.model_validate_json(message.value() or b"")


def test_answers_without_rights(image: str, kafka: RealBroker, topics: TopicSet) -> None:
    """Read-only, without capabilities, not as root, it is ready, healthy, answers, and stops with 0."""
    with Container(image, settings_for(kafka, topics)) as service:
        ask(kafka, topics, "What is 15 + 7?")
        assert answer(kafka, topics).answer == 22
        status = dict(
            line.split(":\t", 1)
            for line in service.run(PYTHON, "-c", "print(open('/proc/1/status').read())").splitlines()
        )
        assert set(status["Uid"].split()) == {"65532"}
        assert set(status["Gid"].split()) == {"65532"}
        assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        kind, *probe = service.inspect("Config.Healthcheck.Test")
        assert kind == "CMD"
        service.run(*probe)
        assert service.stop() == 0
        (ready,) = [line for line in service.log() if line["event"] == "ready"]
        assert ready["compiled"] is False
        assert "draining" in [line["event"] for line in service.log()]
    assert sum(committed(kafka.bootstrap, topics.prefix, topics.queries).values()) == 1


def test_health_check_fails_without_a_listener(image: str, kafka: RealBroker, topics: TopicSet) -> None:
    """The image's health check fails when the endpoint does not answer."""
    with Container(image, settings_for(kafka, topics)) as service:
        _, *probe = service.inspect("Config.Healthcheck.Test")
        with pytest.raises(AssertionError, match="ConnectionRefusedError"):
            service.run("env", "FIVESTAGE_ADMIN__PORT=1", *probe)


def test_stop_while_the_app_is_imported(image: str, tmp_path: Path) -> None:
    """``docker stop`` ends a service whose app is still being imported, as a model that loads."""
    app = tmp_path / "endless.py"
    app.write_text(ENDLESS_APP)
    app.chmod(0o644)
    starting = Container(image, {}, ("run", "endless:app"), {"/app/endless.py": app}, until_ready=False)
    with starting as service:
        service.wait_until("the app is imported", lambda: "importing" in str(service.log()))
        assert service.stop() == 143


def test_stop_lets_a_query_finish(image: str, kafka: RealBroker, topics: TopicSet, tmp_path: Path) -> None:
    """Queries in flight at ``docker stop`` are answered and committed before the end."""
    app = tmp_path / "slow.py"
    app.write_text(textwrap.dedent(SLOW_APP))
    app.chmod(0o644)
    limits: dict[str, object] = {
        "pipeline.total_timeout_ms": 10_000,
        "pipeline.stage_timeouts_ms": {"processing": 9_000},
    }
    settings = settings_for(kafka, topics) | limits
    with Container(image, settings, ("run", "slow:app"), {"/app/slow.py": app}) as service:
        ask(kafka, topics, "hello")
        service.wait_until(
            "a query is in flight",
            lambda: "\nfivestage_in_flight 1.0\n" in service.get("/metrics")[1],
        )
        assert service.stop() == 0
        (draining,) = [line for line in service.log() if line["event"] == "draining"]
        assert draining["in_flight"] == 1
    assert answer(kafka, topics).answer == "at last"
    assert sum(committed(kafka.bootstrap, topics.prefix, topics.queries).values()) == 1


def test_own_node(user_image: str, kafka: RealBroker, topics: TopicSet) -> None:
    """An image with a user's node, built as the README says, answers with it."""
    with Container(user_image, settings_for(kafka, topics)) as service:
        ask(kafka, topics, "hello")
        result = answer(kafka, topics)
        assert (result.node, result.answer) == ("greeter", "You said 'hello'. So do I.")
        assert service.stop() == 0


@pytest.mark.long  # it compiles: make wheel and make test-compiled do the same outside of an image
def test_with_a_compiler(kafka: RealBroker, topics: TopicSet) -> None:
    """Built in an image with a compiler, the hot path is compiled, and answers."""
    with Container(built(compiled=True), settings_for(kafka, topics)) as service:
        ask(kafka, topics, "What is 15 + 7?")
        assert answer(kafka, topics).answer == 22
        assert service.stop() == 0
        (ready,) = [line for line in service.log() if line["event"] == "ready"]
        assert ready["compiled"] is True


def test_nothing_but_the_environment(image: str) -> None:
    """The image has no pip and no build tool, and its user can write nothing in it."""
    code = (
        "import importlib.util as u, os\n"
        "print(*[n for n in ('pip', 'hatchling', 'setuptools') if u.find_spec(n)])\n"
        "print(*[p for top in ('/opt', '/app') for p, _, _ in os.walk(top) if os.access(p, os.W_OK)])"
    )
    found = docker("run", "--rm", "--network", "none", "--entrypoint", PYTHON, image, "-c", code)
    assert found.split() == []
