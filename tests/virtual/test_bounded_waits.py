"""Bounded waits."""

from __future__ import annotations

import asyncio

import pytest

from fivestage._asyncio import cancel_all, first_of, wait_at_most


async def fail(error: Exception) -> None:
    """Raise *error*."""
    raise error


async def go_on(cancellations: list[None]) -> None:
    """Ignore every cancellation."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancellations.append(None)
            if len(cancellations) > 1:  # the loop's end
                raise


async def test_an_error_that_says_more_is_preferred() -> None:
    """Where no step succeeds, the most specific error is raised, whichever came last."""
    for errors in ([KeyError("a"), OSError("b")], [OSError("b"), KeyError("a")]):
        with pytest.raises(KeyError):
            await first_of([fail(error) for error in errors], prefer=KeyError)
    with pytest.raises(OSError, match="last"):
        await first_of([fail(KeyError("a")), fail(OSError("last"))])


async def test_a_wait_ends_in_time_whatever_it_waits_for() -> None:
    """Work that ignores its cancellation is left behind; what ends in time keeps its result or error."""
    clock, cancellations = asyncio.get_running_loop().time, list[None]()
    started_at = clock()
    assert not (await wait_at_most(0.5, go_on(cancellations))).done()
    assert clock() - started_at == pytest.approx(0.5, abs=0.05)
    await asyncio.sleep(0)
    assert len(cancellations) == 1
    assert (await wait_at_most(0.5, asyncio.sleep(0.1, "done"))).result() == "done"
    assert isinstance((await wait_at_most(0.5, fail(KeyError()))).exception(), KeyError)


async def test_a_cancelled_wait_cancels_its_work() -> None:
    """The work does not outlive the caller unnoticed."""
    cancellations: list[None] = []
    waiting = asyncio.ensure_future(wait_at_most(60, go_on(cancellations)))
    await asyncio.sleep(0.1)
    await cancel_all([waiting], 1.0)
    await asyncio.sleep(0)
    assert waiting.cancelled()
    assert len(cancellations) == 1
