"""An event loop whose clock jumps instead of waiting."""

from __future__ import annotations

import asyncio
import selectors


class _JumpSelector(selectors.DefaultSelector):
    """Never sleeps; adds up the time it would have slept."""

    waited_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise RuntimeError("deadlock: nothing is ready and no timer is set")
        self.waited_s += max(timeout, 0.0)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock starts at 0 and jumps to the next timer when nothing is ready to run.

    A deadline of 30 s passes at once and exactly; a deadlock raises RuntimeError. The loop cannot wait for
    anything outside it: sockets and threads, and so blocking (``def``) stages, nodes and resources, need a
    real loop.

    Example:
        >>> async def wait_a_day() -> float:
        ...     await asyncio.sleep(86400)
        ...     return asyncio.get_running_loop().time()
        >>> with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        ...     runner.run(wait_a_day())
        86400.0
    """

    def __init__(self) -> None:
        self._jumps = _JumpSelector()
        super().__init__(self._jumps)

    def time(self) -> float:
        """Return the virtual seconds since the loop was made."""
        return self._jumps.waited_s
