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

    def topic(self, *, is_result: bool) -> str:
        """Return the topic of an event."""
        return self.results if is_result else self.stage_results
