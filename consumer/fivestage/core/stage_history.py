"""The stage history of a query: written by the executor while stages run, read by the bus loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fivestage_schemas import Outcome

if TYPE_CHECKING:
    from fivestage.core.offer import Offer
    from fivestage.core.stage_run import RunningStage, StageRun

_ERROR: Final = Outcome.ERROR
_TIMEOUT: Final = Outcome.TIMEOUT


class StageHistory:
    """What the stages of a query have done so far.

    One writer (the executor) and one reader (the bus loop), possibly in two threads. Each step is one
    assignment or one append, and the reader tolerates any state between two steps. A query that is moved to
    another event loop or worker gets a new history, so that late writes of the old worker are not read.
    """

    __slots__ = (
        "answer_json", "attempt", "closed", "confidence", "hedge", "moved", "offer", "on_offer", "on_wait",
        "resumed", "running", "runs", "superseded", "times", "waiting",
    )  # fmt: skip

    def __init__(self) -> None:
        self.runs: list[StageRun] = []
        self.running: RunningStage | None = None
        self.hedge: RunningStage | None = None
        """The call of another node that runs beside the running one, which is slow."""
        self.superseded: list[StageRun] = []
        """Attempts at processing that failed and that another attempt may follow, or that were overtaken."""
        self.moved: list[RunningStage] = []
        """Attempts at any stage that were abandoned when the query was moved."""
        self.attempt = 1
        """The number of the next attempt; above 1 where a stage is restarted."""
        self.closed = False
        """Set by the bus loop: the query has ended or was moved, so no further stage may run."""
        self.answer_json: bytes | None = None
        self.confidence: float | None = None
        self.resumed: RunningStage | None = None
        """A stage whose call had, or waited for, a thread when the query was moved: the call is awaited."""
        self.waiting: RunningStage | None = None
        """The next stage, while its call waits for a thread: it starts when a thread takes the call."""
        self.times: tuple[float, float] | None = None
        """The query's start and end (monotonic seconds) where it was in the executor's local queue."""
        self.on_wait: Any = None
        """Callback for waits in the executor, with the job and this history; then with None where a wait for
        a thread starts, with the query's new start and end (monotonic seconds) where any wait ends."""
        self.offer: Offer | None = None
        """The last answer offered by an attempt that has ended, and that did not raise; see ``fail_over``."""
        self.on_offer: Any = None
        """Callback for offers, with the context of the call; in worker processes, which send them."""

    def __repr__(self) -> str:
        ended = ", ".join(f"{run.spec.stage_type}={run.outcome}" for run in self.runs)
        return f"<StageHistory [{ended}] running={self.running and self.running.spec.stage_type}>"

    def start(self, running: RunningStage) -> None:
        """Start a stage."""
        self.running = running
        self.waiting = None  # in this order: see continued

    def finish(self, run: StageRun) -> None:
        """End the running stage."""
        self.runs.append(run)
        self.running = self.resumed = self.waiting = self.hedge = None
        self.attempt = 1

    def fail_over(self, run: StageRun) -> None:
        """End a failed attempt that another may follow; what it offered counts unless it raised.

        It counts after an exception, too, that says so.
        """
        if run.outcome is not _ERROR or run.keeps_offer:
            self.offer = self.last_offer()
        self.superseded.append(run)
        self.running = self.resumed = self.waiting = self.hedge = None
        self.attempt = max(self.attempt, run.attempt + 1)

    def start_hedge(self, running: RunningStage) -> None:
        """Start a call beside the running one."""
        self.hedge = running
        self.attempt = running.attempt + 1

    def drop(self, run: StageRun) -> None:
        """End one of two calls, which has failed or was overtaken; the other one goes on as the running one.

        What a call that timed out has offered counts, unless the other one offers something; also after an
        exception that says so.
        """
        first, second = self.running, self.hedge
        if first is None or second is None:
            return
        ended, other = (first, second) if first.attempt == run.attempt else (second, first)
        offer = None if ended.offers is None else ended.offers.last_offer
        if (run.outcome is _TIMEOUT or run.keeps_offer) and offer is not None:
            self.offer = offer
        self.superseded.append(run)  # in this order, so that no call is missing: see earlier_attempts
        self.running = other
        self.hedge = None

    def continued(self) -> StageHistory:
        """Close this history, and return a new one with the stages that have ended.

        The running stage will be restarted, unless a thread makes its call: then the call is resumed. A call
        that waits for a thread keeps its place in the queue.
        """
        self.closed = True
        waiting = self.waiting  # read first: the writer sets `running`, then clears `waiting`
        hedge = self.hedge
        ended, running = self.snapshot()
        history = StageHistory()
        history.moved = list(self.moved)
        if running is None:
            history.resumed = waiting or self.resumed  # set by an earlier move; no stage has started since
        elif running.call is not None:
            history.resumed = running
        else:
            history.moved.append(running)
        if running is not None and hedge is not None:
            history.moved.append(hedge)
        history.runs = list(ended)
        history.superseded = list(self.superseded)
        history.attempt = self.attempt if running is None else max(self.attempt, running.attempt + 1)
        history.answer_json, history.confidence = self.answer_json, self.confidence
        history.offer = self.offer if running is None or history.resumed is running else self.last_offer()
        return history

    def last_offer(self) -> Offer | None:
        """The last answer that the running attempt offered, or else one before it; None without one."""
        running = self.running if self.running is not None else self.resumed
        for one in (self.hedge, running):
            if one is not None and one.offers is not None and one.offers.last_offer is not None:
                return one.offers.last_offer
        return self.offer

    def awaits(self, running: RunningStage) -> bool:
        """Whether this attempt at a stage has not ended yet."""
        failed = any(
            run.attempt == running.attempt or (run.attempt > running.attempt and not run.hedge)
            for run in self.superseded
            if run.spec is running.spec
        )
        return len(self.runs) == running.spec.sequence and not failed

    def snapshot(self) -> tuple[tuple[StageRun, ...], RunningStage | None]:
        """The ended stages and the running one, consistent with each other."""
        running = self.running
        runs = tuple(self.runs)
        if running is not None and running.spec.sequence != len(runs):
            running = None  # it ended between the two reads
        return runs, running
