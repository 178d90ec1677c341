"""Waits for the first of several steps."""

from __future__ import annotations

import pytest

from fivestage._asyncio import first_of


async def test_an_error_that_says_more_is_preferred() -> None:
    """Where no step succeeds, whichever of them failed last."""

    async def fail(error: Exception) -> None:
        raise error

    for errors in ([KeyError("a"), OSError("b")], [OSError("b"), KeyError("a")]):
        with pytest.raises(KeyError):
            await first_of([fail(error) for error in errors], prefer=KeyError)
    with pytest.raises(OSError, match="last"):
        await first_of([fail(KeyError("a")), fail(OSError("last"))])
