"""The command line of every contestant."""

from __future__ import annotations

import sys
from typing import NamedTuple, Self


class Arguments(NamedTuple):
    """The place of work."""

    bootstrap: str
    group_id: str
    queries: str
    stage_results: str
    results: str

    @classmethod
    def read(cls) -> Self:
        """Parse the command line."""
        return cls(*sys.argv[1:6])

    @staticmethod
    def option(name: str, default: int) -> int:
        """Return the value of ``name=VALUE`` after the place."""
        given = [one.partition("=")[2] for one in sys.argv[6:] if one.startswith(f"{name}=")]
        return int(given[0]) if given else default

    def topic(self, *, is_result: bool) -> str:
        """Return the topic of an event."""
        return self.results if is_result else self.stage_results
