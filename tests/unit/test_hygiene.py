"""Things that must never be in the source, the lock files and the deployment."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "consumer").rglob("*.py"), *(ROOT / "schemas").rglob("*.py")])
UNSAFE_MODULES = {
    "pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "jsonpickle",
    "yaml",
    "multiprocessing",
}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> Iterator[str]:
    """Return the names of all modules imported in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module


def called(tree: ast.AST) -> Iterator[str]:
    """Return the plain names of all called functions, and ``shell=True`` where it is passed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.func.id
            for given in node.keywords:
                if given.arg == "shell":
                    yield "shell="


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_turns_bytes_into_code(path: Path) -> None:
    """No pickle, eval or shell: external bytes stay data, between processes too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert {name.partition(".")[0] for name in imported(tree)} & UNSAFE_MODULES == set()
    assert set(called(tree)) & (UNSAFE_CALLS | {"shell="}) == set()


def test_the_linter_checks_it_too() -> None:
    """All of ruff's rules are on, and no security rule is off for the product."""
    lint = PROJECT["tool"]["ruff"]["lint"]
    assert lint["select"] == ["ALL"]
    ignored = {*lint["ignore"]}
    for pattern, rules in lint["per-file-ignores"].items():
        if not pattern.startswith("tests/"):
            ignored |= {*rules}
    assert [rule for rule in ignored if re.fullmatch(r"S\d*", rule)] == []


@pytest.mark.parametrize("name", ["runtime", "dev", "build", "bench", "bench-faust", "bench-quix", "sbom"])
def test_every_requirement_has_its_hash(name: str) -> None:
    """The lock files have versions and hashes, and no index."""
    text = (ROOT / f"requirements/{name}.txt").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[A-Za-z0-9])", text)
    pinned = [entry for entry in entries if re.match(r"[A-Za-z0-9_.\[\]-]+==", entry)]
    assert len(pinned) > 3
    assert [entry.splitlines()[0] for entry in pinned if "--hash=sha256:" not in entry] == []
    assert "index-url" not in text
    assert "://" not in re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)


def test_the_container_has_no_rights() -> None:
    """The image has a numeric user that is not root; compose drops all unneeded rights."""
    dockerfile = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^USER (.+)$", dockerfile, flags=re.MULTILINE) == ["65532:65532"]
    assert re.search(r'^ENTRYPOINT \["', dockerfile, flags=re.MULTILINE)
    compose = (ROOT / "deploy/compose.yaml").read_text(encoding="utf-8")
    service = compose.partition("\n  fivestage:\n")[2].partition("\nvolumes:")[0]
    for line in (
        "read_only: true",
        "cap_drop: [ALL]",
        'security_opt: ["no-new-privileges:true"]',
        "pids_limit:",
        "mem_limit:",
        "127.0.0.1:8080:8080",
    ):
        assert line in service, line
    assert "privileged: true" not in compose


def test_no_secret_on_a_command_line() -> None:
    """Secrets come from the environment or a file: no command-line option takes one."""
    options = re.compile(r"--[a-z-]*(password|secret|token|key)\b")
    for path in (ROOT / "consumer/fivestage/cli").glob("*.py"):
        assert options.findall(path.read_text(encoding="utf-8")) == [], path.name
