"""The result of one bounded call of user code; makes the error text and type of an exception."""

from __future__ import annotations

from math import inf
from typing import Any, Final

from fivestage.core.exception_origin import Frame, take_frames
from fivestage_schemas import Outcome

MAX_ERROR_CHARS = 512
MAX_NAME_CHARS = 128
LONGEST_WAIT_S: Final = 1e6
"""Seconds: longer than any query, and an integer of any size becomes that."""
NODE_BUSY: Final = "node_busy"


class NodeBusyError(Exception):
    """Ends a call that was not made, as the node has no time for it: ``error_type`` is ``node_busy``."""


class CallResult:
    """How one bounded call ended: with data, an error or a timeout. Durations are seconds."""

    __slots__ = (
        "data", "data_json", "duration_s", "error", "error_type", "excused", "extended_s", "frames",
        "keeps_offer", "outcome", "retriable", "retry_after_s",
    )  # fmt: skip

    def __init__(
        self,
        outcome: Outcome,
        duration_s: float,
        data: Any = None,
        data_json: bytes | None = None,
        error: str | None = None,
        error_type: str | None = None,
    ) -> None:
        self.outcome = outcome
        self.duration_s = duration_s
        self.data = data
        self.data_json = data_json
        self.error = error
        self.error_type = error_type
        self.extended_s = self.retry_after_s = 0.0
        """Seconds added to the limit because other code blocked the loop; and seconds that the exception asks
        to wait before another call."""
        self.excused = self.retriable = self.keeps_offer = False
        """The exception says something about the query, and is no failure of the node; or it is a failure
        after which the author permits another call. It says that what the call had offered counts on."""
        self.frames: tuple[Frame, ...] = ()
        """Where the call raised, the innermost frame last; the exception would keep local variables alive."""

    def __repr__(self) -> str:
        return f"<CallResult {self.outcome} after {self.duration_s * 1000:.0f} ms {self.error or ''}>"

    @classmethod
    def of_error(
        cls,
        error: BaseException,
        duration_s: float = 0.0,
        excused: tuple[type[BaseException], ...] = (),
        retry_on: tuple[type[BaseException], ...] = (),
    ) -> CallResult:
        """The result of a call that raised. The exception loses its traceback: see ``take_frames``.

        Args:
            error: The exception.
            duration_s: How long the call took.
            excused: Exceptions that are not failures.
            retry_on: Exceptions after which the call may be made again, unless they are excused.
        """
        result = cls(Outcome.ERROR, duration_s, error=text_of(error), error_type=kind_of(error))
        result.frames = take_frames(error)
        result.excused = bool(excused) and _is_one_of(error, excused)
        result.retriable = bool(retry_on) and not result.excused and _is_one_of(error, retry_on)
        result.keeps_offer = not result.excused and _attribute(error, "keeps_offer") is True
        result.retry_after_s = _wait_s(error) if result.retriable else 0.0
        return result

    @classmethod
    def of_timeout(cls, limit_s: float, duration_s: float) -> CallResult:
        """The result of a call that took longer than *limit_s*."""
        text = f"timed out after {limit_s * 1000:.0f} ms"
        return cls(Outcome.TIMEOUT, duration_s, error=text, error_type="timeout")


def _is_one_of(error: BaseException, classes: tuple[type[BaseException], ...]) -> bool:
    if not isinstance(error, BaseExceptionGroup):
        return isinstance(error, classes)
    try:  # a group, as from a TaskGroup
        return error.split(classes)[1] is None
    except Exception:  # noqa: BLE001 - the class is the author's, and how it is divided
        return False


def _wait_s(error: BaseException) -> float:
    """The seconds in its attribute ``retry_after_s``; 0.0 if there are none."""
    found = _attribute(error, "retry_after_s")
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    return float(min(found, LONGEST_WAIT_S)) if is_number and 0 < found < inf else 0.0


def _attribute(error: BaseException, name: str) -> Any:
    try:
        return getattr(error, name, None)
    except Exception:  # noqa: BLE001 - the class is the author's and may raise anything
        return None


def kind_of(error: BaseException) -> str:
    """Return the ``error_type`` of an exception."""
    return NODE_BUSY if isinstance(error, NodeBusyError) else type(error).__name__[:MAX_NAME_CHARS]


def text_of(error: BaseException) -> str:
    """The exception's message, cut and encodable: file names in it may hold lone surrogates."""
    try:
        text = str(error)[:MAX_ERROR_CHARS]
    except Exception:  # noqa: BLE001 - the class is the author's and may raise anything
        text = ""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text[:MAX_ERROR_CHARS] or type(error).__name__
