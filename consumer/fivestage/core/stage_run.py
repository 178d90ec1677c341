"""The stages of a query: one that has ended, and one that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fivestage_schemas import Outcome

if TYPE_CHECKING:
    from fivestage.core.offer import HasOffer
    from fivestage.core.plan import StageSpec

_SUCCESS: Final = Outcome.SUCCESS


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
