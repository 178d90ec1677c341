"""Sends the answers that nodes offer from a worker process to the main process."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from fivestage.executors.process.messages import encode_offer

if TYPE_CHECKING:
    from fivestage.executors.process.reporter import Outbox
    from fivestage.pipeline.context import StageContext

INTERVAL_S: Final = 0.005
"""Least seconds between two writes of offers: a node may offer after each token of its answer."""
CHUNK_BYTES: Final = 65536
"""The interval is as many times as long as a write has chunks of this size: the bus loop must read them."""


class OfferSender:
    """Sends the last offer of each query, at most every INTERVAL_S.

    An offer after a pause is written at once. Others wait for a thread, which writes them even while code
    blocks the event loop; it is started by the first offer that has to wait.

    Args:
        outbox: Writes to the main process.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._waiting: dict[tuple[int, int], bytes] = {}
        """The frames that wait, by the serial number of the history and the attempt."""
        self._changed = threading.Condition()
        self._next_at = 0.0
        """When offers may be written again (monotonic seconds)."""
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<OfferSender {len(self._waiting)} waiting>"

    def put(self, serial: int, ctx: StageContext) -> None:
        """Send the last offer of a call; in any thread.

        Args:
            serial: The number of the job's history in messages.
            ctx: The context of the call.
        """
        offer = ctx.last_offer
        if offer is None or self._outbox.is_in_copy:
            return
        frame = encode_offer(serial, ctx.attempt, offer)
        with self._changed:
            now = time.monotonic()
            if self._waiting or now < self._next_at:
                self._waiting[serial, ctx.attempt] = frame
                self._wake()
            else:
                self._write(frame, now)

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="fivestage-offers", daemon=True)
            self._thread.start()
        else:
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                left_s = self._next_at - time.monotonic()
            if left_s > 0:
                time.sleep(left_s)
            with self._changed:
                frames = b"".join(self._waiting.values())
                self._waiting.clear()
                self._write(frames, time.monotonic())

    def _write(self, frames: bytes, now: float) -> None:
        self._next_at = now + INTERVAL_S * (1 + len(frames) // CHUNK_BYTES)
        self._outbox.write(frames)
