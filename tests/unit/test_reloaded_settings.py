"""What a change of the settings changes in a service that reloads its app."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from fivestage.errors import ConfigurationError
from fivestage.pipeline.settings import unmasked
from fivestage.service.reloaded_settings import ReloadedSettings
from fivestage.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

NODES = "[nodes.word]\nword = {!r}\n"


class File:
    """A file of settings that is edited, and what a reload reads from it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write(NODES.format("one"))
        self.running = Settings.load(path)
        self.reloaded = ReloadedSettings(self.running, lambda: Settings.load(path))

    def write(self, text: str) -> None:
        """Replace the text."""
        self.path.write_text(text, encoding="utf-8")

    def read(self, text: str) -> tuple[Settings, list[list[str]]]:
        """Replace the text; return what is read then, and the settings that the log names."""
        self.write(text)
        with capture_logs() as logs:
            settings = self.reloaded.read()
        return settings, [line["settings"] for line in logs]


@pytest.fixture
def file(tmp_path: Path) -> File:
    """Return a file with the settings of a node."""
    return File(tmp_path / "f.toml")


def test_nodes_and_outbound_change(file: File) -> None:
    """What only the executor reads is as the file has it now, and the log names nothing."""
    settings, named = file.read(NODES.format("two") + '[outbound]\ndeadline_header = "x-left"\n')
    assert unmasked(settings.nodes) == {"word": {"word": "two"}}
    assert (settings.outbound.deadline_header, named) == ("x-left", [])


def test_other_settings_stay(file: File) -> None:
    """Others stay as they were; each change of them is named once, and again after another one."""
    limit = "[pipeline]\ntotal_timeout_ms = 900\n"
    settings, named = file.read(NODES.format("two") + limit)
    assert settings.pipeline == file.running.pipeline
    assert named == [["pipeline.total_timeout_ms"]]
    assert file.read(NODES.format("three") + limit)[1] == []
    assert file.read(limit + "[lanes]\nprod = 2\n")[1] == [["lanes", "pipeline.total_timeout_ms"]]
    assert file.read("")[1] == []
    assert file.read(limit)[1] == [["pipeline.total_timeout_ms"]]


def test_an_invalid_file(file: File) -> None:
    """What is wrong with the file is raised; a later reload reads it again."""
    with pytest.raises(ConfigurationError, match="is not TOML"):
        file.read("word = \n")
    assert unmasked(file.read(NODES.format("two"))[0].nodes) == {"word": {"word": "two"}}
