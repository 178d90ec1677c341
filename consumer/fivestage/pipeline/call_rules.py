"""What an author declares about the calls of a node: how many at a time, how long, how often again."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, Final

from fivestage.errors import InvalidAppError

NOT_SENT: Final = frozenset(
    {
        "aiohttp.ClientConnectorError",
        "builtins.ConnectionRefusedError",
        "httpx.ConnectError",
        "httpx.ConnectTimeout",
        "httpx.PoolTimeout",
        "requests.ConnectTimeout",
        "socket.gaierror",
        "urllib3.NewConnectionError",
    }
)
"""Exceptions that are raised before a request has been sent, and their packages: a second call cannot do the
same twice. A reset, or a timeout while waiting for the reply, is not among them."""


@dataclass(frozen=True, slots=True)
class CallRules:
    """The declared rules of a node; those that are not declared change nothing."""

    limit: int | None = None
    """Calls at a time, in each process."""
    timeout_s: float = inf
    """Seconds that a call may take; never more than the stage grants."""
    retries: int = 0
    """How often a query may call the node again after a failure."""
    retry_on: tuple[type[BaseException], ...] = ()
    """The failures after which it may."""
    idempotent: bool = False
    """Several calls for one query do no harm."""

    @classmethod
    def of(
        cls,
        name: str,
        excused: tuple[type[BaseException], ...],
        limit: Any,
        timeout_ms: Any,
        retries: Any,
        retry_on: Any,
        idempotent: Any,
    ) -> CallRules | None:
        """Check what is declared for a node; None if that is nothing.

        Args:
            name: The node's.
            excused: Exceptions that are not failures of the node.
            limit: See ``Pipeline.node``, as for the others.
            timeout_ms: Likewise.
            retries: Likewise.
            retry_on: Likewise.
            idempotent: Likewise.

        Raises:
            InvalidAppError: an argument is wrong, or contradicts another.
        """
        if limit is not None and not is_count(limit, least=1):
            raise InvalidAppError(f"node {name!r}: limit must be an integer of 1 or more, got {limit!r}")
        if timeout_ms is not None and not (is_number(timeout_ms) and timeout_ms > 0):
            raise InvalidAppError(f"node {name!r}: timeout_ms must be more than 0, got {timeout_ms!r}")
        if not is_count(retries, least=0):
            raise InvalidAppError(f"node {name!r}: retries must be an integer of 0 or more, got {retries!r}")
        if not isinstance(idempotent, bool):
            raise InvalidAppError(f"node {name!r}: idempotent must be True or False, got {idempotent!r}")
        classes = checked_exceptions(name, "retry_on", retry_on)
        _check_retries(name, retries, classes, idempotent=idempotent, excused=excused)
        timeout_s = inf if timeout_ms is None else timeout_ms / 1000
        rules = cls(limit, timeout_s, retries, classes, idempotent)
        return None if rules == cls() else rules


def checked_exceptions(name: str, argument: str, classes: Any) -> tuple[type[Exception], ...]:
    """One exception class, or a tuple of them, given as *argument* of the node called *name*.

    Raises:
        InvalidAppError: *classes* is neither.
    """
    found = classes if isinstance(classes, tuple) else (classes,)
    for one in found:
        if not (inspect.isclass(one) and issubclass(one, Exception)):
            raise InvalidAppError(
                f"node {name!r}: {argument} must be exception classes, got {one!r}; "
                f"write {argument}=(ValueError,)"
            )
    return found


def _check_retries(
    name: str,
    retries: int,
    classes: tuple[type[Exception], ...],
    *,
    idempotent: bool,
    excused: tuple[type[BaseException], ...],
) -> None:
    if not retries:
        if classes:
            raise InvalidAppError(f"node {name!r}: retry_on does nothing without retries; write retries=1")
        return
    if not classes:
        raise InvalidAppError(
            f"node {name!r}: retries={retries} needs retry_on, the exceptions after which a second call may "
            "succeed; write retry_on=(ConnectionRefusedError,)"
        )
    for one in classes:
        if issubclass(one, excused):
            raise InvalidAppError(
                f"node {name!r}: {one.__name__} is in retry_on, but is no failure (Unanswerable, "
                "not_failures), so it would never be retried; remove it from one of them"
            )
        if not idempotent and not _is_raised_before_sending(one):
            raise InvalidAppError(
                f"node {name!r}: {one.__name__} in retry_on may be raised after the first call has had its "
                "effect; if a second call does no harm write idempotent=True, else name an exception of a "
                "connection that was not made, such as ConnectionRefusedError"
            )


def _is_raised_before_sending(one: type[Exception]) -> bool:
    return any(f"{base.__module__.partition('.')[0]}.{base.__name__}" in NOT_SENT for base in one.__mro__)


def is_count(given: Any, *, least: int) -> bool:
    """Whether *given* is a whole number of *least* or more."""
    return isinstance(given, int) and not isinstance(given, bool) and given >= least


def is_number(given: Any) -> bool:
    """Whether *given* is a finite number."""
    return isinstance(given, int | float) and not isinstance(given, bool) and isfinite(given)
