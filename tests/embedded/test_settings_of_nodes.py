"""Settings of nodes in the service: they arrive, are shown nowhere, and wrong ones prevent the start."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from support.checker import json_of, read_all, wait_for_results
from support.embedded import Installation, patient
from support.feeder import event, write
from support.probe import get
from support.process import ServiceProcess
from support.settings_app import NODES, SECRET

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = pytest.mark.broker
APP = "support.settings_app:app"
PAGES = ["/", "/api/status", "/metrics", "/readyz", "/livez"]


def service_of(place: Installation, nodes: Mapping[str, object], config: Path, kind: str) -> ServiceProcess:
    """Start a service, with a file and with settings of nodes in the environment."""
    config.write_text('[nodes.on_loop]\nwords = ["a"]\n', encoding="utf-8")
    settings = {f"nodes.{name}": value for name, value in nodes.items()} | {"executor.kind": kind}
    arguments = ["--config", str(config), "--log-level", "debug"]
    return ServiceProcess(APP, place.bootstrap, place.settings(patient() | settings), arguments)


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_service_with_settings(place: Installation, tmp_path: Path, kind: str) -> None:
    """Nodes and resources answer with their settings, and neither pages nor log show a value."""
    nodes = {name: NODES[name] for name in ("typed", "plain", "in_process")}
    with service_of(place, nodes, tmp_path / "f.toml", kind) as service:
        queries = [(word, event(word, word)) for word in ("typed", "plain", "shared")]
        write(place.bootstrap, place.topics.queries, queries)
        wait_for_results(place.bootstrap, place.topics.results, len(queries))
        pages = [get(service.log[-1]["admin_port"], page) for page in PAGES]
        assert service.end() == 0
    found = [json_of(one) for one in read_all(place.bootstrap, place.topics.results)]
    answers = {one["query_id"]: one["answer"] for one in found}
    assert answers == {"typed": "hihi", "plain": [True, True], "shared": ["a", "b", "c"]}
    assert [code for code, _ in pages] == [200] * len(PAGES)
    assert SECRET not in f"{pages} {json.dumps(service.log)}"


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_service_with_wrong_settings(place: Installation, tmp_path: Path, kind: str) -> None:
    """The start ends with exit code 2 and one line, which names nodes, keys and sources, and no value."""
    nodes = {"typed": {"word": "hi", "times": SECRET}, "tpyed": {"word": SECRET}}
    service = service_of(place, nodes, tmp_path / "f.toml", kind)
    service.launch()
    assert service.wait() == 2
    line = service.log[-1]
    assert (line["event"], line["exit_code"]) == ("cannot run", 2)
    assert line["error"].split("; ") == [
        (
            "nodes.tpyed: there is no node or resource of this name (did you mean 'typed'?) "
            "(from FIVESTAGE_NODES__TPYED)"
        ),
        (
            "nodes.typed.times: Input should be a valid integer, unable to parse string as an integer "
            "(from FIVESTAGE_NODES__TYPED)"
        ),
    ]
    assert SECRET not in json.dumps(service.log)
