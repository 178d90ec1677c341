"""Requests and responses: late, lost, rejected, but in order on each connection, one at a time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaConnectionError,
    NotCoordinatorForGroupError,
    NotLeaderForPartitionError,
    RebalanceInProgressError,
    RequestTimedOutError,
    TopicAuthorizationFailedError,
    UnknownError,
)

from .loop import OUTSIDE

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from random import Random

    from .loop import SimLoop
    from .trace import Trace

    Reply = Callable[[Any], None]
    Handler = Callable[..., None]

ROUND_TRIP_S = 0.002
RETRY_BACKOFF_S = 0.1
"""aiokafka's pause between two attempts."""
MOVED = (GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError)
REFUSALS: dict[str, tuple[type[Exception], ...]] = {
    "find coordinator": (GroupCoordinatorNotAvailableError,),
    "join": (*MOVED, GroupLoadInProgressError),
    "sync": (*MOVED, RebalanceInProgressError),
    "heartbeat": MOVED,
    "commit": (*MOVED, GroupLoadInProgressError),
    "fetch committed": (NotCoordinatorForGroupError, GroupLoadInProgressError),
    "produce": (NotLeaderForPartitionError,),
}
"""Temporary errors of real brokers, by request."""
FATAL: dict[str, tuple[type[Exception], ...]] = {
    "commit": (TopicAuthorizationFailedError, UnknownError),
    "heartbeat": (UnknownError,),
    "produce": (TopicAuthorizationFailedError, UnknownError, UnknownError),
}
"""Permanent errors for this client, or for any, by request."""


@dataclass(frozen=True, slots=True)
class Faults:
    """The probabilities of request failures."""

    lost_request: float = 0.0
    """The connection breaks before the broker has read the request."""
    lost_response: float = 0.0
    """The broker handles the request, and the connection breaks."""
    silence: float = 0.0
    """One of the two, and the client only notices by its timeout."""
    slow: float = 0.0
    slow_s: float = 1.0
    """The longest delay of a slow one."""
    refused: float = 0.0
    """The broker answers with a temporary error."""
    fatal: float = 0.0
    """The broker answers with a permanent error."""
    damage: float = 0.0
    """A fetched record is damaged on its way."""

    @property
    def fates(self) -> tuple[tuple[str, float], ...]:
        """Return the possible fates of a request, with their probabilities."""
        return (
            ("lost_request", self.lost_request),
            ("lost_response", self.lost_response),
            ("silence", self.silence),
            ("refused", self.refused),
            ("fatal", self.fatal),
        )


NO_FAULTS = Faults()


class Network:
    """Carries all traffic between clients and brokers.

    Args:
        random: Decides the failures.
        faults: Their probabilities; can be changed at any time.
    """

    def __init__(self, loop: SimLoop, random: Random, faults: Faults, trace: Trace) -> None:
        self.loop = loop
        self.random = random
        self.faults = faults
        self.trace = trace
        self.fatal: set[str] = set()
        """Clients that got a permanent error."""
        self.cut_off: set[str] = set()
        """Clients that reach no broker."""

    def latency_s(self) -> float:
        """Return the latency of one way."""
        if self.faults.slow and self.random.random() < self.faults.slow:
            return self.random.random() * self.faults.slow_s
        return self.random.random() * ROUND_TRIP_S


class _Request(NamedTuple):
    """A request on its way."""

    what: str
    handler: Handler
    args: tuple[Any, ...]
    answered: asyncio.Future[Any]
    fate: str


class Connection:
    """A connection of a client to a broker for one purpose, with one request at a time in the broker.

    Args:
        who: The client, for the trace.
        timeout_s: The client's response timeout.
    """

    def __init__(self, network: Network, who: str, *, timeout_s: float) -> None:
        self._network = network
        self._who = who
        self._timeout_s = timeout_s
        self._waiting: deque[_Request] = deque()
        self._current: _Request | None = None
        self._arrives_at = self._answers_at = 0.0
        self._asked: set[asyncio.Future[Any]] = set()

    async def call(self, what: str, handler: Handler, *args: Any) -> Any:
        """Call the broker's *handler* with a reply function and *args*; return the reply.

        Raises:
            KafkaConnectionError: the connection broke; it is unknown whether the broker handled the request.
            RequestTimedOutError: no response came; likewise.
        """
        network = self._network
        loop = network.loop
        answered: asyncio.Future[Any] = loop.create_future()
        self._asked.add(answered)
        fate = "lost_request" if self._who in network.cut_off else self._fate(what)
        if fate:
            network.trace.add(self._who, f"! {what}", fate)
        self._arrives_at = max(self._arrives_at, loop.time() + network.latency_s())
        request = _Request(what, handler, args, answered, fate)
        loop.call_at(self._arrives_at, self._arrive, request, context=OUTSIDE)
        if network.faults is NO_FAULTS and not self._waiting:
            try:
                return await answered
            finally:
                self._asked.discard(answered)
        silent = loop.call_later(self._timeout_s, _fail, answered, RequestTimedOutError)
        try:
            return await answered
        finally:
            silent.cancel()
            self._asked.discard(answered)

    def close(self) -> None:
        """Break the connection: requests sent before are on their way, and their responses are dropped."""
        for answered in self._asked:
            _fail(answered, KafkaConnectionError)

    def _fate(self, what: str) -> str:
        faults = self._network.faults
        if faults is NO_FAULTS:
            return ""
        draw = self._network.random.random()
        for fate, likelihood in faults.fates:
            draw -= likelihood
            if draw < 0:
                impossible = (fate == "refused" and what not in REFUSALS) or (
                    fate == "fatal" and what not in FATAL
                )
                return "" if impossible else fate
        return ""

    def _arrive(self, request: _Request) -> None:
        self._waiting.append(request)
        self._next()

    def _next(self) -> None:
        while self._waiting and self._current is None:
            request = self._waiting.popleft()
            if self._is_settled(request):
                continue
            self._current = request
            if request.fate == "lost_response":
                _fail_later(self._network, request.answered)
            request.handler(partial(self._reply, request), *request.args)
            if request.fate == "lost_response" and self._current is request:
                self._current = None  # the response on that connection is dropped

    def _reply(self, request: _Request, value: Any) -> None:
        self._respond(request, value)
        if self._current is request:
            self._current = None
            self._network.loop.call_soon(self._next)

    def _is_settled(self, request: _Request) -> bool:
        """Return whether it fails before the broker does anything."""
        network, fate = self._network, request.fate
        if fate == "lost_request" or (fate == "silence" and network.random.random() < 0.5):
            if fate == "lost_request":
                _fail_later(network, request.answered)
            return True
        if fate == "refused":
            self._respond(request, network.random.choice(REFUSALS[request.what]))
        elif fate == "fatal":
            network.fatal.add(self._who)
            self._respond(request, network.random.choice(FATAL[request.what]))
        return fate in ("refused", "fatal")

    def _respond(self, request: _Request, value: Any) -> None:
        if self._who in self._network.cut_off:
            _fail_later(self._network, request.answered)
        elif request.fate not in ("lost_response", "silence"):
            loop = self._network.loop
            self._answers_at = max(self._answers_at, loop.time() + self._network.latency_s())
            loop.call_at(self._answers_at, _answer, request.answered, value, context=OUTSIDE)


def _answer(answered: asyncio.Future[Any], value: Any) -> None:
    if not answered.done():
        answered.set_result(value)


def _fail(answered: asyncio.Future[Any], error: type[Exception]) -> None:
    if not answered.done():
        answered.set_exception(error())
        answered._log_traceback = False  # the caller may be dead


def _fail_later(network: Network, answered: asyncio.Future[Any]) -> None:
    """Report a broken connection to the client; a lost response is noticed by its own timer."""
    network.loop.outside(network.latency_s(), _fail, answered, KafkaConnectionError)
