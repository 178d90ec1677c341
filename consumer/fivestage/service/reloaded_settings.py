"""The settings of a service whose app is reloaded: what a change of them changes without a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fivestage.settings import Settings

APPLIED: Final = frozenset({"nodes", "outbound"})
"""The sections that only the executor of an app reads; other parts of the service keep the first settings."""

log = structlog.get_logger("fivestage.dev")


class ReloadedSettings:
    """Reads the settings again for each reload.

    Args:
        running: Those that the service was started with.
        load: Reads file and environment; raises ConfigurationError.
    """

    def __init__(self, running: Settings, load: Callable[[], Settings]) -> None:
        self._running = running
        self._load = load
        self._reported: list[str] = []

    def read(self) -> Settings:
        """Return the settings for the next app; log the changes that need a restart, once.

        Raises:
            ConfigurationError: a value or the file is invalid.
        """
        new = self._load()
        kept = {name: getattr(self._running, name) for name in type(new).model_fields.keys() - APPLIED}
        changed = [key for key in differences(self._running, new) if key.partition(".")[0] in kept]
        if changed and changed != self._reported:
            advice = "end this command and start it again"
            log.warning("changed settings need a restart", settings=changed, advice=advice)
        self._reported = changed
        return new.model_copy(update=kept)


def differences(one: BaseModel, other: BaseModel, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of the settings that differ; a table with free keys is one setting."""
    for name in type(one).model_fields:
        here, there = getattr(one, name), getattr(other, name)
        if isinstance(here, BaseModel) and isinstance(there, BaseModel):
            yield from differences(here, there, f"{prefix}{name}.")
        elif here != there:
            yield f"{prefix}{name}"
