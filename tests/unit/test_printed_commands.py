"""Every printed command, and every verb of make, is run by a test, by CI or by ``make long``."""

from __future__ import annotations

import re

from support.documents import DOCUMENTS, ROOT, commands, text_of
from tools.long.__main__ import VERBS as LONG_VERBS

RUN, HELP = "tests/unit/test_documents.py", "tests/embedded/cli/test_help.py::test_example_parses"
WITH_A_BROKER, SETTINGS = f"{RUN}::test_commands_with_a_broker", f"{RUN}::test_config_commands"
SCHEMAS = f"{RUN}::test_schema_commands"
IMAGE = "tests/kafka/deploy/test_image.py::test_answers_without_rights"
TERMINAL = "tests/embedded/cli/test_terminal_page.py::test_printed_commands"
TOPICS = "tests/kafka/test_commands.py::test_create_then_check"
KAFKA_IMAGE = "tests/kafka/test_broker.py::test_console_tools"
AUTHORS = "tests/embedded/cli/test_new.py::test_printed_commands"
RUN_BY = {
    "fivestage new shop": AUTHORS,
    "fivestage check app:app": AUTHORS,
    "fivestage ask app:app": AUTHORS,
    "fivestage ask myapp:app": f"{RUN}::test_the_first_question",
    "fivestage broker": "tests/embedded/cli/test_round_trip.py::test_broker_and_run_end",
    "fivestage demo": "tests/embedded/cli/test_demo.py::test_demo_adds_up",
    "fivestage run myapp:app": WITH_A_BROKER,
    "fivestage run --config fivestage.toml": HELP,
    "fivestage dev myapp:app": "tests/embedded/cli/test_dev.py::test_printed_command",
    "fivestage bench myapp:app": "tests/embedded/cli/test_bench.py::test_printed_command",
    """echo '{"query_id":"a","user_input":"What is 15 + 7?"}' | fivestage produce -""": WITH_A_BROKER,
    'fivestage produce "hello there"': WITH_A_BROKER,
    "fivestage watch --from-beginning --max 2": WITH_A_BROKER,
    "fivestage top": TERMINAL,
    "fivestage watch --status timeout": TERMINAL,
    "fivestage watch --from-beginning --node": TERMINAL,
    "fivestage explain a": TERMINAL,
    "fivestage watch --from-beginning --max 1 --json | fivestage explain": TERMINAL,
    "fivestage topics create --partitions 8": TOPICS,
    "fivestage topics check": TOPICS,
    "fivestage dlq list": WITH_A_BROKER,
    "fivestage dlq list --reason not_json --limit 10 --json": WITH_A_BROKER,
    "fivestage dlq replay --dry-run": WITH_A_BROKER,
    "fivestage dlq replay --reason unknown_lane": WITH_A_BROKER,
    "fivestage schemas export schemas": SCHEMAS,
    "fivestage schemas check schemas": SCHEMAS,
    "fivestage config show": SETTINGS,
    "fivestage config check --config fivestage.toml": SETTINGS,
    "docker build -f deploy/Dockerfile -t fivestage .": IMAGE,
    "docker run --rm --read-only --cap-drop ALL": IMAGE,
    "docker build -f deploy/Dockerfile -t fivestage --build-arg BASE_IMAGE=": IMAGE,
    "export BASE_IMAGE=": IMAGE,
    "export PIP_ARGS=": IMAGE,
    "for lock in runtime build; do": IMAGE,
    "pip download --require-hashes": IMAGE,
    "done": IMAGE,
    "deploy/acls.sh User:fivestage": "tests/kafka/faults/test_sasl.py::test_least_rights_and_no_leaks",
    "deploy/kafka-image/build.sh kafka": ".ci/services.sh",
    "docker run --rm -p 127.0.0.1:9092:9092 fivestage-kafka:4.3.1": KAFKA_IMAGE,
    ".venv/bin/pytest tests/": "Makefile",
    'pip install ".[embedded]"': "Makefile",
    'HATCH_BUILD_HOOKS_ENABLE=1 pip install ".[embedded]"': "Makefile",
    "docker compose -f deploy/compose.yaml": "tests/unit/test_hygiene.py::test_the_container_has_no_rights",
}
"""By the start of a printed command: the test that runs it, or that does the same with fewer machines."""


def test_every_printed_command_is_run() -> None:
    """Each has an entry in RUN_BY, whose test exists, and each entry is printed."""
    texts = list(map(text_of, DOCUMENTS))
    printed = {line for text in texts for line in commands(text)}
    others = {line for line in printed if not line.startswith("make ")}
    used = {line: max(filter(line.startswith, RUN_BY), key=len, default="") for line in others}
    assert [line for line, start in used.items() if not start] == []
    assert set(RUN_BY) - set(used.values()) == set()
    paths = {word for line in others for word in line.split() if word.startswith("tests/")}
    assert [path for path in paths if not (ROOT / path).exists()] == []
    for place in set(RUN_BY.values()):
        path, _, name = place.partition("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in text, place


NOT_IN_CI = {
    "kafka-image",  # .ci/services.sh builds it
    "test-python",  # CI runs the same tests on another Python as part of test-compiled
    "test-fast",
    "test-compiled",  # CI runs its two parts, see below, which make the wheel: one half for each commit
    "wheel",
    "long",  # runs those that take hours
    "bench-quick",  # verbs runs it in a shorter form
    "sbom",  # needs an index, as lock
    "lock",
}


def _ci() -> str:
    return (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_every_printed_verb_is_run() -> None:
    """Each verb of make exists, and CI runs it, or ``make long`` where it takes hours."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    before = r"(?:nice -n 19 )?(?:env )?(?:\"\S+\" )?(?:\w+=\S+ )*"
    step = rf"^\s*(?:step|beside) {before}make (?:\S*[=$]\S* )*\"?([\w-]+)"
    ci = set(re.findall(step, _ci(), re.MULTILINE))
    assert {"test-compiled-virtual", "test-compiled-realtime"} <= ci
    texts = list(map(text_of, DOCUMENTS))
    verbs = {line.split()[1] for text in texts for line in commands(text) if line.startswith("make ")}
    verbs |= {verb for text in texts for verb in re.findall(r"`make ([a-z-]+)", text)}
    for verb in verbs:
        assert f"\n{verb}:" in makefile or verb.startswith("test-python"), verb
        assert verb in ci or verb in LONG_VERBS or verb in NOT_IN_CI, verb
