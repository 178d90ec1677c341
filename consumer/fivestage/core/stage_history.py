"""The stage history of a query: written by the executor while stages run, read by the bus loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fivestage_schemas import Outcome

if TYPE_CHECKING:
    from fivestage.core.offer import HasOffer, Offer
    from fivestage.core.plan import StageSpec

_ERROR: Final = Outcome.ERROR
_SUCCESS: Final = Outcome.SUCCESS
_TIMEOUT: Final = Outcome.TIMEOUT


class StageRun:
    """A stage that has ended. Times are monotonic seconds.

    Immutable once it is in a history. Like RunningStage not a NamedTuple: compiled, a native class is ten
    times as fast to create and read, and a query has ten of both.

    Args:
        spec: The stage.
        outcome: How it ended.
        data_json: What the stage returned, encoded by the executor.
        error: What went wrong, for people.
        error_type: The same for programs.
        node: The node that was called.
        attempt: The number of the attempt.
        started_at: None if nothing was called.
        duration_s: How long it ran.
        granted_s: Its limit.
        probe: The call was the probe of a half-open breaker, or a trial while the breaker was not closed.
        verdict: Whether validation accepted the answer; None without a verdict, and for other stages.
        excused: The node raised because the query has no answer, which does not count as its failure.
        waited_s: Seconds that the call waited before the stage started; see ``RunningStage``.
        where: ``file:line`` of the author's code that raised.
        partial: Processing did not end with an answer, and later stages run on the last answer offered.
        counted: Breaker and health of the node count the call; of a batch they count one.
        capped: The limit was the node's own ``timeout_ms``: the stage would have had more time.
        keeps_offer: The node raised, and its exception says that what it had offered counts on.
        hedge: It was called beside another node that was slow; ``waited_s`` is the time since the start of
            that one.
        overtaken: It was given up because the call beside it had answered; its outcome is skipped.
    """

    __slots__ = (
        "attempt", "capped", "counted", "data_json", "duration_s", "error", "error_type", "excused",
        "granted_s", "hedge", "keeps_offer", "node", "outcome", "overtaken", "partial", "probe", "spec",
        "started_at", "verdict", "waited_s", "where",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913, PLR0917 - the fields of a StageResult
        self,
        spec: StageSpec,
        outcome: Outcome,
        data_json: bytes | None = None,
        error: str | None = None,
        error_type: str | None = None,
        node: str | None = None,
        attempt: int = 1,
        started_at: float | None = None,
        duration_s: float = 0.0,
        granted_s: float = 0.0,
        probe: bool = False,  # noqa: FBT001, FBT002 - worker processes send the fields in order
        verdict: bool | None = None,  # noqa: FBT001 - likewise
        excused: bool = False,  # noqa: FBT001, FBT002 - likewise
        waited_s: float = 0.0,
        where: str | None = None,
        partial: bool = False,  # noqa: FBT001, FBT002 - likewise
        counted: bool = True,  # noqa: FBT001, FBT002 - likewise
        capped: bool = False,  # noqa: FBT001, FBT002 - likewise
        keeps_offer: bool = False,  # noqa: FBT001, FBT002 - likewise
        hedge: bool = False,  # noqa: FBT001, FBT002 - likewise
        overtaken: bool = False,  # noqa: FBT001, FBT002 - likewise
    ) -> None:
        self.spec = spec
        self.outcome = outcome
        self.data_json = data_json
        self.error = error
        self.error_type = error_type
        self.node = node
        self.attempt = attempt
        self.started_at = started_at
        self.duration_s = duration_s
        self.granted_s = granted_s
        self.probe = probe
        self.verdict = verdict
        self.excused = excused
        self.waited_s = waited_s
        self.where = where
        self.partial, self.keeps_offer = partial, keeps_offer
        self.counted, self.capped = counted, capped
        self.hedge, self.overtaken = hedge, overtaken

    def __repr__(self) -> str:
        return f"<StageRun {self.spec.stage_type} {self.outcome} {self.error or ''}>"

    def without_data(self, error: str | None, error_type: str | None) -> StageRun:
        """Return a copy that has *error* and *error_type* instead of its data."""
        return self._copy(error, error_type, partial=self.partial)

    def as_partial(self) -> StageRun:
        """Return a copy, of a run without data, after which later stages run on the last answer offered."""
        return self._copy(self.error, self.error_type, partial=True)

    def _copy(self, error: str | None, error_type: str | None, *, partial: bool) -> StageRun:
        return StageRun(
            self.spec,
            self.outcome,
            None,
            error,
            error_type,
            self.node,
            self.attempt,
            self.started_at,
            self.duration_s,
            self.granted_s,
            self.probe,
            self.verdict,
            self.excused,
            self.waited_s,
            self.where,
            partial,
            self.counted,
            self.capped,
            self.keeps_offer,
            self.hedge,
            self.overtaken,
        )

    @property
    def success(self) -> bool:
        """Whether the stage succeeded."""
        return self.outcome is _SUCCESS

    @property
    def ends_query(self) -> bool:
        """Whether the query ends with this stage: critical and without a result, or rejected as an error."""
        spec = self.spec
        failed = spec.critical and self.outcome is not _SUCCESS and not self.partial
        return failed or (self.verdict is False and spec.rejects)


class RunningStage:
    """The stage that runs now, or whose call waits for a thread.

    Attributes:
        waited_s: Seconds that the call waited before the stage started: for a thread, for a slot of its node,
            or between two calls.
        call: The call, if a thread makes it: it goes on while the event loop stalls.
        parked: The ``Parked`` of a call that waits for a thread; the stage has not started then.
        offers: The context of the call, for a call of a node: it has what the node offers.
    """

    __slots__ = (
        "attempt", "call", "capped", "counted", "granted_s", "hedge", "node", "offers", "parked", "probe",
        "spec", "started_at", "waited_s",
    )  # fmt: skip

    def __init__(
        self,
        spec: StageSpec,
        started_at: float,
        granted_s: float,
        node: str | None = None,
        attempt: int = 1,
        probe: bool = False,  # noqa: FBT001, FBT002 - likewise
        waited_s: float = 0.0,
        counted: bool = True,  # noqa: FBT001, FBT002 - likewise
        capped: bool = False,  # noqa: FBT001, FBT002 - likewise
        hedge: bool = False,  # noqa: FBT001, FBT002 - likewise
    ) -> None:
        self.spec = spec
        self.started_at = started_at
        self.granted_s = granted_s
        self.node = node
        self.attempt = attempt
        self.probe = probe
        self.waited_s = waited_s
        self.counted, self.capped, self.hedge = counted, capped, hedge  # as of its StageRun
        self.call: Any = None
        self.parked: Any = None
        self.offers: HasOffer | None = None

    def end(
        self, now: float, outcome: Outcome, error: str | None = None, error_type: str | None = None
    ) -> StageRun:
        """The run of a stage that is abandoned at *now*, without a result."""
        run = StageRun(self.spec, outcome, None, error, error_type, self.node, self.attempt, self.started_at)
        run.duration_s, run.granted_s = now - self.started_at, self.granted_s
        run.probe, run.waited_s = self.probe, self.waited_s
        run.counted, run.capped, run.hedge = self.counted, self.capped, self.hedge
        return run

    def __repr__(self) -> str:
        return f"<RunningStage {self.spec.stage_type} since {self.started_at:.3f}>"


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
